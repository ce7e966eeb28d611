"""What receivers are told of tasks that really run: attempts, what is sent, how processes come and go."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import millstream as ms
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.engines.local.worker_kind import PoolKind
from millstream.engines.local.worker_many import ManyWorker
from millstream.tasks.states import TaskState
from tests.integration.tasks_processes import PATIENCE_S, Site, site
from tests.integration.tasks_shop import gated, square

SETTINGS = WorkerSettings(burst=True)


@pytest.fixture
def app(store_path: Path) -> Iterator[ms.App]:
    with ms.App("shop", store=store_path, durability="process") as opened:
        yield opened


def run(app: ms.App, pool: str = "process") -> None:
    """Run what is there, in this process."""
    engine, chance = app.tasks_engine, Random(0)
    if pool == "process":
        Worker(engine, app.tasks, SETTINGS, chance=chance).run()
    else:
        kind = PoolKind(pool)
        ManyWorker(engine, app.tasks, SETTINGS, kind=kind, concurrency=2, chance=chance).run()


def listen(app: ms.App) -> list[str]:
    """Return what is told of attempts from now on, as words."""
    told: list[str] = []
    signals = app.signals
    signals.task_prerun.connect(lambda e: told.append(f"prerun {e.request.attempt}"))
    signals.task_success.connect(lambda e: told.append(f"success {e.result}"))
    signals.task_retry.connect(lambda e: told.append(f"retry {e.exception} {e.delay_us}"))
    signals.task_failure.connect(lambda e: told.append(f"failure {e.exception}"))
    signals.task_revoked.connect(lambda e: told.append(f"revoked {e.reason} {e.terminated}"))
    signals.task_postrun.connect(lambda e: told.append("postrun"))
    return told


@pytest.mark.parametrize("pool", ["process", "thread", "async"])
def test_a_task_that_returns(app: ms.App, pool: str) -> None:
    told = listen(app)
    seen: list[ms.signals.TaskSuccess] = []
    threads: list[int] = []
    app.signals.task_success.connect(seen.append)
    app.signals.task_prerun.connect(lambda _: threads.append(threading.get_ident()))

    @app.task(queue="default")
    async def add(a: int, b: int = 2) -> int:
        threads.append(threading.get_ident())
        return a + b

    result = add.apply_async((1,), {"b": 4}, priority=7)
    run(app, pool)
    assert told == ["prerun 1", "success 5", "postrun"]
    (event,) = seen
    request = event.request
    assert (request.id, request.task, request.priority) == (result.id, add.name, 7)
    assert {*request.args, *request.kwargs.values()} == {1, 4}
    assert event.runtime_us >= 0
    assert len(set(threads)) == 1


def test_a_task_that_is_tried_again_and_given_up(app: ms.App) -> None:
    told = listen(app)

    @app.task(retries=1, backoff=ms.Backoff.constant("1ms"))
    def broken() -> None:
        raise ValueError("no")

    broken.delay()
    run(app)
    assert told[:3] == ["prerun 1", "retry no 1000", "postrun"]
    assert told[3:] == ["prerun 2", "failure no", "postrun"]


def test_each_call_of_a_batch_is_told_of(app: ms.App) -> None:
    told = listen(app)

    @app.task(batch=ms.Batch(max=10, wait="0s"), retries=0)
    def halve(numbers: list[int]) -> list[float | Exception]:
        return [number / 2 if number else ZeroDivisionError("none") for number in numbers]

    halve.enqueue_many(halve.s(number) for number in (2, 0, 4))
    run(app)
    begun, ends = told[:3], told[3:]
    assert begun == ["prerun 1"] * 3
    assert ends == ["success 1.0", "postrun", "failure none", "postrun", "success 2.0", "postrun"]


def test_a_task_that_asks_for_another_attempt_tells_its_cause(app: ms.App) -> None:
    told = listen(app)

    @app.task(bind=True, max_retries=1)
    def impatient(self: ms.BoundTask) -> str:
        if self.request.attempt == 1:
            raise self.retry(exc=OSError("busy"), countdown=0)
        return "done"

    impatient.delay()
    run(app)
    assert told == ["prerun 1", "retry busy 0", "postrun", "prerun 2", "success done", "postrun"]


def test_a_task_that_ends_because_it_was_revoked(app: ms.App) -> None:
    told = listen(app)

    @app.task(bind=True)
    def doomed(self: ms.BoundTask) -> None:
        app.tasks.control.revoke([self.request.id], reason="enough")
        self.check_revoked()

    result = doomed.delay()
    run(app)
    assert told == ["prerun 1", "revoked enough False", "postrun"]
    assert result.state is TaskState.REVOKED


def test_what_cannot_be_called_fails_without_a_beginning(app: ms.App) -> None:
    told = listen(app)
    app.send_task("nowhere")
    run(app)  # Its code may be older than the call, so it is tried again.
    assert [words.split(" there is no task 'nowhere'")[0] for words in told] == [
        *["retry"] * 3,
        "failure",
    ]


@pytest.mark.parametrize("name", ["task_prerun", "task_success", "task_postrun"])
@pytest.mark.parametrize("error", [ValueError("receiver"), SystemExit(1)])
def test_a_receiver_that_raises_changes_nothing(
    app: ms.App, name: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    @app.task
    def add(a: int) -> int:
        runs.append(a)
        return a

    def broken(_event: object) -> None:
        raise error

    getattr(app.signals, name).connect(broken)
    results = add.map([1, 2, 3])
    with caplog.at_level(logging.ERROR):
        run(app)
    assert [one.get(0) for one in results] == [1, 2, 3]
    assert runs == [1, 2, 3]
    assert len(caplog.records) == 3


def test_what_is_sent_is_told_before_it_is_stored(app: ms.App) -> None:
    sent: list[ms.signals.BeforeTaskPublish] = []

    @app.task
    def add(a: int) -> int:
        return a

    @app.signals.before_task_publish.connect
    def remember(event: ms.signals.BeforeTaskPublish) -> None:
        assert app.tasks_engine.status(event.message.id) is None
        sent.append(event)

    ids = [add.delay(1).id, *(one.id for one in add.map([2, 3]))]
    with app.transaction() as tx:
        ids += [one.id for one in tx.enqueue(add.s(4))]
    ids.append(app.send_task("elsewhere", [5]).id)
    assert [event.message.id for event in sent] == ids
    assert [event.message.name for event in sent] == [add.name] * 4 + ["elsewhere"]


# ---- worker processes ---------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, "process", monkeypatch) as opened:
        yield opened


@pytest.mark.parametrize("pool", ["process", "thread", "solo"])
def test_a_process_tells_how_it_comes_and_goes(shop: Site, pool: str) -> None:
    result = square.delay(3)
    shop.burst("--pool", pool, "--concurrency", "1", SHOP_SIGNALS="yes")
    assert result.get(0) == 9
    told = shop.listen_to_all()
    assert len({process for process, _ in told}) == 1
    assert [words.split()[0] for _, words in told] == [
        "worker_process_init",
        "worker_ready",
        "square",
        "worker_shutdown",
        "worker_process_shutdown",
    ]
    assert told[0][1].split()[1] == pool


def test_a_task_that_is_terminated_is_told_of(shop: Site) -> None:
    result = gated.delay("a")
    with shop.worker("--concurrency", "1", SHOP_SIGNALS="yes"):
        while shop.listen()[1] != "gated a":
            pass
        result.revoke("enough", terminate=True)
        assert shop.listen()[1] == "revoked enough"
        with pytest.raises(ms.errors.TaskRevoked):
            result.get(PATIENCE_S)
