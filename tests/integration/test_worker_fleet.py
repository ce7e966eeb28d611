"""How many processes a worker has, and which code they run: growing, shrinking, reloading; with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from millstream.app import App
from millstream.primitives.errors import ResultTimeout, TaskRevoked
from millstream.tasks.states import TaskState
from millstream.tasks.workers import WorkerStatus
from tests.integration.tasks_processes import PATIENCE_S, ROOT, Site, site
from tests.integration.tasks_shop import gated, square


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, "process", monkeypatch) as opened:
        yield opened


def said(worker: subprocess.Popen[bytes]) -> str:
    """Return the next line of the worker's errors; a test that waits for ever is stopped by its timeout."""
    assert worker.stderr is not None
    return worker.stderr.readline().decode().rstrip()


# ---- autoscale ----------------------------------------------------------------------------------


def test_a_pool_grows_while_tasks_wait_and_shrinks_when_they_are_done(shop: Site) -> None:
    results = gated.enqueue_many(gated.s(f"{n}") for n in range(4))
    options = ["--autoscale", "4,1", "--autoscale-keepalive", "1s"]
    with shop.worker(*options) as worker:
        assert said(worker) == "2 worker processes, before 1"
        while not said(worker).startswith("4 worker processes"):
            pass  # In one step or in two: how many wait is told while the first of them is taken.
        told = [shop.listen() for _ in range(4)]
        assert len({process for process, _ in told}) == 4  # Each runs one, none waits.
        shop.open_gate(4)
        assert [one.get(PATIENCE_S) for one in results] == ["0", "1", "2", "3"]
        while not said(worker).startswith("1 worker processes"):
            pass  # In one step or in several: the processes tell one after another that they are idle.
        assert square.delay(3).get(PATIENCE_S) == 9
    assert worker.returncode == 0


def test_a_busy_process_is_not_the_one_that_goes(shop: Site) -> None:
    long = gated.enqueue_many(gated.s(f"{n}") for n in range(2))
    with shop.worker("--autoscale", "2,1", "--autoscale-keepalive", "1s") as worker:
        assert said(worker) == "2 worker processes, before 1"
        shop.listen(), shop.listen()
        shop.open_gate()
        assert said(worker) == "1 worker processes, before 2"
        # Had the busy one been told to stop, this task would wait for another process.
        third = gated.delay("third")
        shop.open_gate(2)
        assert third.get(PATIENCE_S) == "third"
        assert [one.get(PATIENCE_S) for one in long] == ["0", "1"]


def test_a_burst_ends_in_spite_of_its_bounds(shop: Site) -> None:
    results = square.enqueue_many(square.s(n) for n in range(50))
    shop.burst("--autoscale", "3,2")
    assert [one.get(0) for one in results] == [n * n for n in range(50)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--autoscale", "many"], "cannot be understood"),
        (["--autoscale", "1,3"], "3 to 1 worker processes"),
        (["--autoscale", "3,1", "--pool", "thread"], "needs --pool process"),
        (["--reload", "--pool", "solo"], "needs a supervisor"),
    ],
)
def test_options_that_do_not_fit_are_refused(shop: Site, options: list[str], message: str) -> None:
    with shop.worker(*options) as worker:
        _, errors = worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode == 2
    assert message in errors.decode()


# ---- looking at workers, and asking them for something ------------------------------------------


def answered(shop: Site, count: int, *, running: int = 0) -> list[WorkerStatus]:
    """Return the processes of a worker that starts, once so many have answered and so many tasks run."""
    while True:
        asked_us = shop.engine.now_us()
        found = shop.app.workers.all(timeout_s=PATIENCE_S)
        fresh = [one for one in found if one.told_us >= asked_us]
        if len(fresh) == count and sum(one.report.running_count for one in fresh) == running:
            return fresh


@pytest.mark.parametrize("pool", ["process", "thread", "async", "solo"])
def test_workers_tell_what_they_do(shop: Site, pool: str) -> None:
    square.enqueue_many(square.s(n) for n in range(10))
    shop.burst("--concurrency", "1")
    shop.listen_to_all()
    before_us = shop.engine.now_us()
    result = gated.delay("a")
    with shop.worker("--pool", pool, "--concurrency", "1") as worker:
        pid, _ = shop.listen()
        (one,) = answered(shop, 1, running=1)
        (task,) = one.report.running
        assert (task.id, task.name) == (result.id, gated.name)
        assert before_us < task.started_us <= one.told_us
        assert (one.pid, one.pool, one.lives) == (pid, pool, True)
        supervisor = pid if pool == "solo" else worker.pid
        assert one.node == f"{one.host}:{supervisor}"
        assert {gated.name, square.name} <= set(one.tasks)
        assert one.report.memory_bytes is None or one.report.memory_bytes > 2**20
        shop.open_gate()
        assert result.get(PATIENCE_S) == "a"
        (after,) = answered(shop, 1)
        assert (after.report.succeeded, after.report.raised) == (1, 0)
    assert shop.app.workers.all() == []


def test_a_process_that_was_killed_does_not_live(shop: Site) -> None:
    with shop.worker("--pool", "solo") as worker:
        (one,) = answered(shop, 1)
        worker.kill()
        worker.wait(PATIENCE_S)
        (dead,) = shop.app.workers.all()
        assert (dead.lease, dead.lives) == (one.lease, False)


@pytest.mark.parametrize("pool", ["process", "thread", "solo"])
def test_shutdown_from_elsewhere_is_warm(shop: Site, pool: str) -> None:
    first, second = gated.delay("first"), gated.delay("second")
    with shop.worker("--pool", pool, "--concurrency", "1", SHOP_TELL_AT="task.stopping") as worker:
        shop.listen()
        assert len(shop.app.workers.shutdown()) == 1
        assert shop.listen()[1] == "task.stopping"
        # Again: it is warm however often it is asked for.
        assert len(shop.app.workers.shutdown()) == 1
        with pytest.raises(ResultTimeout, match="tasks still run in"):
            shop.app.workers.shutdown(timeout_s=0)
        shop.open_gate()
        shop.app.workers.shutdown(timeout_s=PATIENCE_S)
        assert worker.wait(PATIENCE_S) == 0
    assert first.get(0) == "first"
    assert second.state is TaskState.QUEUED


def test_shutdown_of_one_worker_leaves_the_others(shop: Site) -> None:
    with shop.worker("--concurrency", "2") as one, shop.worker("--concurrency", "1") as other:
        nodes = {status.node: status.pid for status in answered(shop, 3)}
        doomed = next(node for node in nodes if node.endswith(f":{one.pid}"))
        assert shop.app.workers.shutdown([doomed], timeout_s=PATIENCE_S) == [doomed]
        assert one.wait(PATIENCE_S) == 0
        assert square.delay(4).get(PATIENCE_S) == 16
        assert other.poll() is None


def test_pools_are_resized_while_they_run(shop: Site) -> None:
    with shop.worker("--concurrency", "1", "--autoscale-keepalive", "1s") as worker:
        answered(shop, 1)
        shop.app.workers.pool_grow(2)
        assert said(worker) == "3 worker processes, before 1"
        answered(shop, 3)
        shop.app.workers.pool_shrink()
        assert said(worker) == "2 worker processes, before 3"
        answered(shop, 2)
        shop.app.workers.pool_shrink(2)
        assert said(worker).startswith("not done: a pool of")
        shop.app.workers.autoscale(3, 1)
        assert said(worker) == "1 worker processes, before 2"  # Nothing waits.
        results = gated.enqueue_many(gated.s(f"{n}") for n in range(3))
        assert said(worker).endswith("before 1")
        shop.open_gate(3)
        assert [one.get(PATIENCE_S) for one in results] == ["0", "1", "2"]


def test_a_revoked_task_is_terminated_at_once_and_not_at_the_next_sign_of_life(shop: Site) -> None:
    result = gated.delay("a")
    with shop.worker("--concurrency", "1", "--lease", "1h"):
        shop.listen()
        assert result.revoke(terminate=True)
        with pytest.raises(TaskRevoked):
            result.get(PATIENCE_S)


# ---- reload -------------------------------------------------------------------------------------

MAIN = """
import os
import select
import millstream as ms
from parts.words import word

app = ms.App("app", store="app.mill", durability="process")


@app.task(retries=0)
def say() -> str:
    return word


@app.task
def gated() -> str:
    with open("told", "w") as told:
        print(os.getpid(), file=told)
    with open("gate") as gate:
        gate.read(1)
    return word
"""


class Shed:
    """A directory with an app of two files, and a worker that reloads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "parts").mkdir()
        (folder / "parts" / "__init__.py").touch()
        (folder / "main.py").write_text(MAIN)
        self.write("word = 'one'")
        for name in ("told", "gate"):
            os.mkfifo(folder / name)
        self.app = App("app", store=folder / "app.mill", durability="process")

    def write(self, text: str) -> None:
        fresh = self.folder / "parts" / "words.new"
        fresh.write_text(text + "\n")
        # In one step: nobody sees a file that is half written.
        fresh.replace(self.folder / "parts" / "words.py")

    def say(self) -> str:
        answer: str = self.app.send_task("main.say").get(PATIENCE_S)
        return answer

    @contextmanager
    def worker(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "millstream", "worker", "-A", "main", "--reload"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        process = subprocess.Popen(
            [*command, *options], cwd=self.folder, env=environment, stderr=subprocess.PIPE
        )
        try:
            yield process
            process.terminate()
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def shed(tmp_path: Path) -> Iterator[Shed]:
    opened = Shed(tmp_path)
    yield opened
    opened.app.close()


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_changed_file_replaces_the_processes(shed: Shed, pool: str) -> None:
    with shed.worker("--concurrency", "2", "--pool", pool) as worker:
        assert shed.say() == "one"
        shed.write("word = 'two'")
        assert said(worker) == "reloading: words.py changed"
        while shed.say() != "two":  # The old processes may run some more.
            pass
        shed.write("word = 'six'")  # As long as before, within the same second.
        assert said(worker) == "reloading: words.py changed"
        while shed.say() != "six":
            pass
    assert worker.returncode == 0


def test_a_task_that_runs_is_finished_by_the_code_that_began_it(shed: Shed) -> None:
    result = shed.app.send_task("main.gated")
    with shed.worker("--concurrency", "1") as worker:
        (shed.folder / "told").read_text()
        shed.write("word = 'two'")
        assert said(worker) == "reloading: words.py changed"
        (shed.folder / "gate").write_text(".")
        assert result.get(PATIENCE_S) == "one"
        assert shed.say() == "two"
    assert result.attempts() == []


@pytest.mark.parametrize("broken", ["word = (", "raise OSError('no words')", "import nowhere"])
def test_a_broken_file_is_reported_and_the_worker_comes_back(shed: Shed, broken: str) -> None:
    with shed.worker("--concurrency", "1") as worker:
        assert shed.say() == "one"
        shed.write(broken)
        assert said(worker) == "reloading: words.py changed"
        lines = [said(worker)]
        while not lines[-1].startswith(("SyntaxError", "OSError", "ModuleNotFoundError")):
            lines.append(said(worker))
        assert any("words.py" in line for line in lines)
        # Not before: the old process may run what is sent while it is being stopped.
        result = shed.app.send_task("main.say")
        shed.write("word = 'mended'")
        assert said(worker) == "reloading: words.py changed"
        assert result.get(PATIENCE_S) == "mended"


def test_an_app_that_cannot_be_loaded_at_first_is_waited_for(shed: Shed) -> None:
    (shed.folder / "main.py").unlink()
    with shed.worker("--concurrency", "1") as worker:
        assert "there is no module 'main'" in said(worker)
        (shed.folder / "main.py").write_text(MAIN)
        assert said(worker) == "reloading: main.py changed"
        assert shed.say() == "one"
