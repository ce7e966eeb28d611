"""Faults around tasks: each has a clear error and a stated end, and nothing is lost."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.primitives.errors import StoreFull, StoreStopped, TaskFailed
from millstream.store import Store
from millstream.store.catalog import connect
from millstream.store.check import check
from millstream.tasks.gates import Limit
from millstream.tasks.limits import RESULT_BYTES_MAX
from millstream.tasks.message import Succeeded, TaskMessage
from millstream.tasks.states import TaskState
from millstream.testing.clock import VirtualClock
from millstream.testing.crash import Report, run
from tests.integration import tasks_shop
from tests.integration.small_disk import hard_limit, limited, small_disk
from tests.integration.tasks_processes import PATIENCE_S, ROOT, Site, site
from tests.integration.tasks_shop import gated, square
from tests.tasks_kit import Bench, us

__all__ = ["limited", "small_disk"]

WORKER = [sys.executable, "-m", "millstream", "worker", "-A", "tests.integration.tasks_shop"]
HOUR_US = 3_600_000_000
LEASE_US = 10_000_000
TTL_US = 86_400_000_000


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def bench(store_path: Path, clock: VirtualClock) -> Iterator[Bench]:
    with Store.open(store_path, durability="process", clock=clock) as store:
        yield Bench(store)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, "process", monkeypatch) as opened:
        yield opened


# ---- the disk is full ---------------------------------------------------------------------------


class Room:
    """The room on a small disk, or within a limit on files, for the process that calls."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"
        self._is_disk = folder.stat().st_dev != folder.parent.stat().st_dev

    def leave(self, size: int) -> None:
        if self._is_disk:
            self._ballast.unlink(missing_ok=True)
            left = shutil.disk_usage(self._ballast.parent).free - size
            self._ballast.write_bytes(bytes(max(0, left)))
        else:
            largest = max(one.stat().st_size for one in self._ballast.parent.rglob("*"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest + size, hard_limit()))

    def make(self) -> None:
        self._ballast.unlink(missing_ok=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard_limit(), hard_limit()))


def send_and_work_without_room(report: Report, path: Path) -> None:
    """Send until there is no room, make a little, work until there is none again, and go on when there is."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # A write beyond the limit is an error then.
    with Store.open(path) as store:
        store.duty.stop()
        bench, room = Bench(store), Room(path.parent)
        ran: list[int] = []

        @bench.task(name="grow")
        def grow(n: int, ballast: bytes) -> bytes:
            ran.append(n)
            return ballast * 2

        room.leave(600_000)
        sent = 0
        try:
            while True:
                grow.enqueue_many(grow.s(n, bytes(2_000)) for n in range(sent, sent + 10))
                sent += 10
        except StoreFull as error:
            report(("sending", str(error)))
        report(("sent", sent))
        report(("stored", sum(bench.engine.depth().values())))
        room.leave(400_000)
        waits: list[str] = []

        def say(line: str) -> None:
            waits.append(line)
            room.make()

        settings = WorkerSettings(burst=True)
        Worker(bench.engine, bench.tasks, settings, chance=Random(0), report=say).run()
        report(("waits", waits))
        report(("ran", sorted(ran)))
        report(("done", bench.engine.depth()[TaskState.SUCCEEDED]))


@pytest.mark.parametrize("place", ["small_disk", "limited"])
def test_a_full_disk_refuses_calls_and_a_worker_waits_with_its_results(
    request: pytest.FixtureRequest, place: str
) -> None:
    path = request.getfixturevalue(place) / "store.mill"
    outcome = run(send_and_work_without_room, path)
    assert not outcome.error, outcome.error
    told = dict(outcome.reports)
    assert "no space left" in told["sending"]
    assert told["stored"] == told["sent"] > 0
    assert "results wait for their commit: no space left" in told["waits"][0]
    assert told["ran"] == list(range(told["sent"])), "each ran once, although its commit failed"
    assert told["done"] == told["sent"]
    assert check(path) == []


# ---- the clock is set ---------------------------------------------------------------------------


@pytest.mark.parametrize("jump_us", [3 * HOUR_US, -3 * HOUR_US])
def test_a_rate_goes_on_after_the_clock_was_set(
    bench: Bench, clock: VirtualClock, jump_us: int
) -> None:
    limit = Limit("limit:t", None, 1_000_000)
    bench.engine.enqueue(
        [
            TaskMessage(
                id=str(n), name="t", queue="default", priority=5, arguments=b"\x80", limit=limit
            )
            for n in range(3)
        ]
    )
    lease = bench.engine.join(["default"], lease_us=LEASE_US)

    def claim() -> int:
        ready = bench.engine.ready(["default"]).now
        claimed = bench.engine.exchange(lease, (), want=3).claimed
        assert ready or not claimed, "a sleeping worker would not have claimed it"
        return len(claimed)

    assert [claim(), claim()] == [1, 0]
    clock.jump(jump_us)
    # As if no start had been before: one at once, and no burst.
    assert [claim(), claim()] == [1, 0]
    clock.advance(us(1_000_000))
    assert [claim(), claim()] == [1, 0]


def test_etas_and_results_follow_the_clock_that_was_set(bench: Bench, clock: VirtualClock) -> None:
    @bench.task(name="t")
    def noop() -> None: ...

    result = noop.apply_async(countdown=60)
    lease = bench.engine.join(["default"], lease_us=LEASE_US)
    clock.jump(-HOUR_US)
    clock.advance("30m")
    assert bench.engine.exchange(lease, (), want=1).claimed == ()
    clock.jump(HOUR_US)
    (task,) = bench.engine.exchange(lease, (), want=1).claimed
    # Set back while it runs: its end is stored all the same, and kept for as long as was asked.
    clock.jump(-2 * HOUR_US)
    now_us = clock.now_us()
    done = Succeeded(task, b"\xc0", TTL_US, now_us + 2 * HOUR_US, now_us)
    assert bench.engine.exchange(lease, [done], want=0).refused == 0
    assert bench.engine.recover().workers == 0
    assert result.get(0) is None


# ---- what is stored is not what was expected ----------------------------------------------------


def test_arguments_that_are_damaged_in_the_store_fail_the_task_at_once(store_path: Path) -> None:
    with Store.open(store_path, durability="process") as store:
        bench = Bench(store)

        @bench.task(name="t")
        def double(n: int) -> int:
            return 2 * n

        broken, whole = double.delay(1), double.delay(2)
        connection = connect(store.directory.catalog, vfs=None)
        connection.execute("UPDATE tasks SET arguments = x'c1' WHERE id = ?", (broken.id,))
        connection.close()
        bench.drain()
        with pytest.raises(TaskFailed, match="malformed") as caught:
            broken.get(0)
        assert caught.value.error_type.endswith("TaskArgumentError")
        assert len(broken.attempts()) == 1
        assert whole.get(0) == 4


def test_a_result_that_is_too_large_fails_the_task_at_once(bench: Bench) -> None:
    @bench.task(name="t")
    def much() -> bytes:
        return bytes(RESULT_BYTES_MAX)

    result = much.delay()
    bench.drain()
    with pytest.raises(TaskFailed, match=f"{RESULT_BYTES_MAX:,}"):
        result.get(0)
    assert len(result.attempts()) == 1


# ---- the store is not what it was ---------------------------------------------------------------


@pytest.mark.parametrize("pool", ["process", "solo"])
def test_a_worker_refuses_a_store_of_a_newer_version_once(shop: Site, pool: str) -> None:
    square.delay(1)
    catalog = shop.engine.store.directory.catalog
    tasks_shop.app.close()
    connection = connect(catalog, vfs=None)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    done = subprocess.run(
        [*WORKER, "--pool", pool],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("StoreVersionError") == 1
    assert "Traceback" not in done.stderr


def test_a_store_that_is_removed_refuses_every_commit_and_can_be_closed(bench: Bench) -> None:
    @bench.task(name="t")
    def noop() -> None: ...

    noop.delay()
    path = bench.store.path
    shutil.rmtree(path)
    with pytest.raises(StoreStopped, match="was removed while this process had it open"):
        noop.delay()
    with pytest.raises(StoreStopped):
        bench.engine.beat(bench.engine.join(["default"], lease_us=LEASE_US))
    bench.store.close()
    assert not path.exists(), "closing it does not make it again"
    with Store.open(path) as again:
        assert sum(Bench(again).engine.depth().values()) == 0


def test_a_store_that_is_removed_under_a_worker_ends_it_and_the_next_one_begins_anew(
    shop: Site,
) -> None:
    gated.delay("x")
    with shop.worker("--concurrency", "1", "--lease", "1s") as worker:
        shop.listen()
        shutil.rmtree(shop.path)
        shop.open_gate()
        assert worker.stderr is not None
        assert worker.stderr.readline().startswith(b"StoreStopped: the store was removed")
        while not (line := worker.stderr.readline()).startswith(b"worker 1 died"):
            assert line.startswith(b"  "), "where, expected and next"
        with pytest.raises(StoreStopped):
            square.delay(3)
        tasks_shop.app.close()
        assert square.delay(3).get(PATIENCE_S) == 9
