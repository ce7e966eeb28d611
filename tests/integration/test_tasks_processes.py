"""Worker processes: they run tasks, end in order, die and are replaced, stop and are fenced."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.primitives.errors import TaskFailed, TaskRevoked
from millstream.tasks.limits import WORKER_DEATHS_MAX
from millstream.tasks.message import Outcome
from millstream.tasks.states import TaskState
from tests.integration.tasks_processes import PATIENCE_S, ROOT, Site, site
from tests.integration.tasks_shop import flaky, gated, poison, shout, square, unstorable


@pytest.fixture(params=["disk", "process"])
def shop(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    with site(tmp_path, request.param, monkeypatch) as opened:
        yield opened


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, "process", monkeypatch) as opened:
        yield opened


def test_tasks_run_in_workers_and_results_come_back(shop: Site) -> None:
    squares = square.enqueue_many(square.s(n) for n in range(100))
    loud = shout.delay("hi")
    with shop.worker("--concurrency", "2"):
        assert [one.get(PATIENCE_S) for one in squares] == [n * n for n in range(100)]
        assert loud.get(PATIENCE_S) == "HI"
        # A worker that sleeps is woken by the next task.
        assert square.delay(12).get(PATIENCE_S) == 144
    assert shop.engine.depth()[TaskState.SUCCEEDED] == 102


def test_failures_keep_every_attempt(quick: Site) -> None:
    result = flaky.delay(3)
    quick.burst("--concurrency", "1")
    with pytest.raises(TaskFailed, match="no 3") as caught:
        result.get(0)
    assert 'raise ValueError(f"no {n}")' in caught.value.traceback
    assert caught.value.error_type == "ValueError"
    assert [one.number for one in result.attempts()] == [1, 2, 3]


def test_a_result_that_cannot_be_stored_is_a_failure(quick: Site) -> None:
    result = unstorable.delay()
    quick.burst("--concurrency", "1")
    with pytest.raises(TaskFailed, match="cannot be stored"):
        result.get(0)
    assert len(result.attempts()) == 1


def test_poison_kills_its_limit_of_workers_and_no_more(quick: Site) -> None:
    deadly, others = poison.delay(), square.enqueue_many(square.s(n) for n in range(5))
    quick.burst("--concurrency", "2")
    assert [one.get(0) for one in others] == [0, 1, 4, 9, 16]
    with pytest.raises(TaskFailed, match="worker died"):
        deadly.get(0)
    assert [one.outcome for one in deadly.attempts()] == [Outcome.WORKER_DIED] * WORKER_DEATHS_MAX
    told = [words for _, words in quick.listen_to_all()]
    assert told.count("poison") == WORKER_DEATHS_MAX


def test_a_kill_charges_the_task_that_ran_and_nobody_it_was_claimed_with(quick: Site) -> None:
    # Many short tasks make the worker claim many at once; the one that kills it is in the middle of a batch.
    before = square.enqueue_many(square.s(n) for n in range(500))
    deadly = poison.apply_async(queue="default")
    after = square.enqueue_many(square.s(n) for n in range(500))
    quick.burst("--concurrency", "1")
    assert all(one.get(0) is not None for one in before + after)
    outcomes = [one.outcome for one in deadly.attempts()]
    assert outcomes == [Outcome.WORKER_DIED] * WORKER_DEATHS_MAX
    assert not any(one.attempts() for one in before + after)
    assert [words for _, words in quick.listen_to_all()].count("poison") == WORKER_DEATHS_MAX


def test_sigterm_finishes_the_running_task_and_releases_the_rest(quick: Site) -> None:
    first, second = gated.delay("first"), gated.delay("second")
    with quick.worker("--concurrency", "1", SHOP_TELL_AT="task.stopping") as worker:
        quick.listen()
        worker.send_signal(signal.SIGTERM)
        assert worker.stderr is not None
        assert worker.stderr.readline().startswith(b"stopping")
        assert quick.listen()[1] == "task.stopping"
        quick.open_gate()
        assert worker.wait(PATIENCE_S) == 0
    assert first.get(0) == "first"
    assert second.state is TaskState.QUEUED


def test_a_second_sigterm_gives_the_running_task_back(quick: Site) -> None:
    result = gated.delay("x")
    with quick.worker("--concurrency", "1") as worker:
        quick.listen()
        assert worker.stderr is not None
        for _ in range(2):
            worker.send_signal(signal.SIGTERM)
            assert worker.stderr.readline().startswith(b"stopping")
        assert worker.wait(PATIENCE_S) == 0
    assert result.state is TaskState.QUEUED
    assert result.attempts() == []


def test_children_end_when_their_supervisor_is_killed(quick: Site) -> None:
    result = gated.delay("x")
    with quick.worker("--concurrency", "1") as worker:
        child, _ = quick.listen()
        worker.kill()
        worker.wait(PATIENCE_S)
        quick.open_gate()
        assert result.get(PATIENCE_S) == "x"
    # The child has nobody who could wait for it, but its end closes its sign of life.
    descriptor = os.pidfd_open(child)
    signalled = _ends(descriptor)
    os.close(descriptor)
    assert signalled


def _ends(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], PATIENCE_S)[0])


def test_another_worker_takes_over_from_one_that_was_killed(shop: Site) -> None:
    result = gated.delay("x")
    with shop.worker("--concurrency", "2"):
        killed, _ = shop.listen()
        os.kill(killed, signal.SIGKILL)
        other, words = shop.listen()
        shop.open_gate()
        assert result.get(PATIENCE_S) == "x"
    assert (words, other != killed) == ("gated x", True)
    (died,) = result.attempts()
    assert (died.outcome, "process is gone" in died.error) == (Outcome.WORKER_DIED, True)


def test_a_stopped_worker_loses_its_task_and_its_late_result_is_refused(quick: Site) -> None:
    # Without a supervisor, which would kill the one that shows no sign of life.
    result, solo = gated.delay("x"), ("--pool", "solo", "--lease", "1s")
    with quick.worker(*solo) as worker:
        stopped, _ = quick.listen()
        with quick.worker(*solo):
            os.kill(stopped, signal.SIGSTOP)
            other, _ = quick.listen()
            quick.open_gate()
            assert result.get(PATIENCE_S) == "x"
        assert other != stopped
        quick.open_gate()
        os.kill(stopped, signal.SIGCONT)
        worker.send_signal(signal.SIGTERM)
        worker.wait(PATIENCE_S)
    assert quick.engine.refused() == 1
    assert [one.outcome for one in result.attempts()] == [Outcome.WORKER_DIED]


def test_a_long_task_does_not_hold_back_those_claimed_with_it(quick: Site) -> None:
    # Many short tasks make the worker claim many at once; the gated one among them is long.
    before = square.enqueue_many(square.s(n) for n in range(2_000))
    gate = gated.delay("x")
    after = square.enqueue_many(square.s(n) for n in range(50))
    with quick.worker("--concurrency", "1"):
        while quick.listen()[1] != "gated x":
            pass
        assert before[-1].get(PATIENCE_S) == 1999**2
        with quick.worker("--concurrency", "1"):
            assert [one.get(PATIENCE_S) for one in after] == [n * n for n in range(50)]
        quick.open_gate()
        assert gate.get(PATIENCE_S) == "x"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere", "no module 'nowhere'"),
        ("tests.nowhere:app", "no module 'tests.nowhere'"),
        ("tests.integration.tasks_shop:shop", "has no 'shop'"),
        ("tests.integration.tasks_shop:square", "not an app"),
        ("..:app", "cannot be the name of a module"),
    ],
)
def test_an_app_that_is_not_there(quick: Site, target: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "millstream", "worker", "-A", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count(says) == 1


def test_a_module_that_raises_is_shown_once_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nowhere_at_all\n")
    done = subprocess.run(
        [sys.executable, "-m", "millstream", "worker", "-A", "broken", "--concurrency", "3"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("No module named 'nowhere_at_all'") == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("step", ["", "task.terminated", "task.leaving"])
def test_a_revoked_task_is_terminated_with_its_process(quick: Site, step: str) -> None:
    stuck, after = gated.delay("stuck"), square.delay(3)
    killed = {"SHOP_KILL_AT": step} if step else {}
    with quick.worker("--concurrency", "1", "--lease", "1s", **killed):
        held, words = quick.listen()
        assert words == "gated stuck"
        assert stuck.revoke("enough", terminate=True)
        with pytest.raises(TaskRevoked, match="enough"):
            stuck.get(PATIENCE_S)
        assert after.get(PATIENCE_S) == 9
        assert {process for process, _ in quick.listen_to_all()} != {held}
    assert stuck.attempts()[0].error == "terminated: enough"
    assert len(stuck.attempts()) == 1
    assert after.attempts() == []
