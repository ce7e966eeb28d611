"""Workers in this process that run batches: each call ends by itself, whatever becomes of the function."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import millstream as ms
from millstream.engines.local.worker import WorkerSettings
from millstream.engines.local.worker_kind import PoolKind
from millstream.engines.local.worker_many import ManyWorker
from millstream.primitives.errors import (
    ConfigurationError,
    TaskArgumentError,
    TaskFailed,
    TaskRevoked,
)
from millstream.store import Store
from millstream.testing.clock import VirtualClock
from tests.tasks_kit import Bench, us

KINDS = ["solo", "thread", "async"]


@dataclasses.dataclass(frozen=True)
class Doc:
    number: int
    text: str = ""


@pytest.fixture
def bench(store_path: Path) -> Iterator[Bench]:
    with Store.open(store_path, durability="process") as store:
        yield Bench(store)


def drain(bench: Bench, kind: str) -> None:
    if kind == "solo":
        bench.drain()
        return
    settings = WorkerSettings(burst=True)
    ManyWorker(
        bench.engine,
        bench.tasks,
        settings,
        kind=PoolKind(kind),
        concurrency=2,
        chance=Random(0),
    ).run()


@pytest.mark.parametrize("kind", KINDS)
def test_one_call_of_the_function_for_many_calls(bench: Bench, kind: str) -> None:
    seen: list[list[int]] = []

    @bench.task(batch=ms.Batch(max=4, wait="1ms"))
    def index(docs: list[Doc]) -> list[str]:
        seen.append([doc.number for doc in docs])
        return [f"{doc.number} {doc.text}" for doc in docs]

    @bench.task(batch=ms.Batch(max=10, wait="1ms"))
    async def count(docs: list[Doc]) -> list[int]:
        return [len(docs)] * len(docs)

    results = index.enqueue_many(index.s(Doc(n, "x")) for n in range(10))
    counts = count.enqueue_many(count.s(Doc(n)) for n in range(10))
    drain(bench, kind)
    assert [one.get(0) for one in results] == [f"{n} x" for n in range(10)]
    assert sorted(seen) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [one.get(0) for one in counts] == [10] * 10


def test_nothing_returned_is_a_success_of_each(bench: Bench) -> None:
    @bench.task(batch=ms.Batch(max=3, wait="0s"))
    def index(docs: list[int]) -> None: ...

    results = index.map([1, 2])
    bench.drain()
    assert [one.get(0) for one in results] == [None, None]


def test_some_calls_of_a_batch_fail(bench: Bench) -> None:
    """Each by its own policy and its own count of attempts; the others are not run again."""
    seen: list[list[int]] = []

    @bench.task(
        batch=ms.Batch(max=4, wait="1ms"),
        retries=2,
        backoff=ms.Backoff.constant("0s"),
        retry_on={KeyError: 0},
    )
    def index(docs: list[int]) -> list[int | Exception]:
        seen.append(docs)
        errors = {1: ValueError("one"), 2: KeyError("two")}
        return [errors.get(doc, doc) for doc in docs]

    results = index.map([0, 1, 2, 3])
    bench.drain()
    assert [results[0].get(0), results[3].get(0)] == [0, 3]
    assert seen == [[0, 1, 2, 3], [1], [1]]
    assert [one.error_type for one in results[1].attempts()] == ["ValueError"] * 3
    assert [one.error_type for one in results[2].attempts()] == ["KeyError"]
    with pytest.raises(TaskFailed, match="one"):
        results[1].get(0)


def test_an_error_of_the_function_is_one_of_each_call(bench: Bench) -> None:
    runs: list[int] = []

    @bench.task(batch=ms.Batch(max=3, wait="1ms"), retries=1, backoff=ms.Backoff.constant("0s"))
    def index(docs: list[int]) -> list[int]:
        runs.append(len(docs))
        if len(runs) == 1:
            raise ConnectionError("down")
        return docs

    results = index.map([1, 2, 3])
    bench.drain()
    assert [one.get(0) for one in results] == [1, 2, 3]
    assert [[one.error for one in result.attempts()] for result in results] == [["down"]] * 3
    assert "def index" not in results[0].attempts()[0].traceback
    assert "worker_execute" not in results[0].attempts()[0].traceback
    assert runs == [3, 3]


@pytest.mark.parametrize(
    ("returned", "told"), [([1], "1 values"), ("abc", "str"), ([1, 2, 3], "3 values"), (7, "int")]
)
def test_a_value_for_each_call_or_none(bench: Bench, returned: object, told: str) -> None:
    @bench.task(batch=ms.Batch(max=2, wait="1ms"))
    def index(docs: list[int]):
        return returned

    results = index.map([1, 2])
    bench.drain()
    for result in results:
        with pytest.raises(TaskFailed, match=f"the batch of 2 calls returned {told}"):
            result.get(0)
        assert len(result.attempts()) == 1


def test_a_value_that_cannot_be_stored_fails_its_call_alone(bench: Bench) -> None:
    @bench.task(batch=ms.Batch(max=2, wait="1ms"))
    def index(docs: list[int]) -> list[int]:
        return [object() if doc == 1 else doc for doc in docs]  # type: ignore[misc]

    odd, good = index.map([1, 2])
    bench.drain()
    assert good.get(0) == 2
    with pytest.raises(TaskFailed, match="cannot be stored"):
        odd.get(0)


def test_arguments_that_do_not_fit_fail_their_call_alone(bench: Bench) -> None:
    """One sent by name, unchecked, stands beside a good one; a batch of bad ones calls nothing."""
    runs: list[list[int]] = []

    @bench.task(name="index", batch=ms.Batch(max=2, wait="1ms"))
    def index(docs: list[int]) -> list[int]:
        runs.append(docs)
        return docs

    with pytest.raises(TaskArgumentError):
        index.delay("three")  # type: ignore[arg-type]
    elsewhere = Bench(bench.store)
    good, odd = index.delay(3), elsewhere.tasks.send_task("index", ["three"])
    bench.drain()
    assert good.get(0) == 3
    with pytest.raises(TaskFailed, match="does not fit its annotation"):
        odd.get(0)
    lost = [elsewhere.tasks.send_task("index", [text]) for text in "ab"]
    bench.drain()
    assert runs == [[3]]
    assert [one.state for one in lost] == [ms.TaskState.FAILED] * 2


def test_a_bound_batch_knows_each_of_its_attempts(bench: Bench) -> None:
    told: list[tuple[str, int]] = []

    @bench.task(batch=ms.Batch(max=2, wait="1ms"), bind=True, max_retries=1)
    def index(self: ms.BoundBatch, docs: list[int]) -> list[int | Exception]:
        values: list[int | Exception] = []
        for call, doc in zip(self.calls, docs, strict=True):
            told.append((call.request.id, call.request.retries))
            call.update_state(meta={"doc": doc})
            failed = doc == 1
            values.append(call.retry(countdown=0, exc=OSError("no"), throw=False) if failed else 7)
        return values

    odd, good = index.map([1, 2])
    bench.drain()
    assert good.get(0) == 7
    assert told == [(odd.id, 0), (good.id, 0), (odd.id, 1)]
    with pytest.raises(TaskFailed, match="OSError: no"):
        odd.get(0)
    assert [one.error for one in odd.attempts()] == ["no", "no"]


def test_a_batch_cannot_be_replaced(bench: Bench) -> None:
    @bench.task
    def other() -> int:
        return 1

    @bench.task(batch=ms.Batch(max=2, wait="1ms"), bind=True, retries=0)
    def index(self: ms.BoundBatch, docs: list[int]) -> None:
        self.calls[0].replace(other.s())

    result = index.delay(1)
    bench.drain()
    with pytest.raises(TaskFailed, match="is a batch and cannot be replaced"):
        result.get(0)


def test_calls_of_a_batch_are_unique_expire_and_are_revoked(store_path: Path) -> None:
    clock = VirtualClock()
    with Store.open(store_path, durability="process", clock=clock) as store:
        bench = Bench(store)
        seen: list[list[int]] = []

        @bench.task(batch=ms.Batch(max=9, wait="2s"), unique=True)
        def index(docs: list[int]) -> None:
            seen.append(docs)

        first = index.delay(1)
        assert index.delay(1).id == first.id
        late = index.apply_async((2,), expires=1)
        unwanted = index.delay(3)
        worker = bench.worker()
        lease = bench.engine.join(["default"], lease_us=10**7, batches=bench.tasks.batches())
        assert bench.engine.exchange(lease, (), want=1).claimed == ()
        assert unwanted.state is ms.TaskState.BLOCKED
        assert unwanted.revoke()
        clock.advance(us(2_000_000))
        bench.engine.leave(lease)
        worker.run()
        assert seen == [[1]]
        assert first.get(0) is None
        for one in (late, unwanted):
            with pytest.raises(TaskRevoked):
                one.get(0)


def test_a_batch_in_a_workflow(bench: Bench) -> None:
    @bench.task(batch=ms.Batch(max=3, wait="1ms"))
    def double(numbers: list[int]) -> list[int]:
        return [2 * n for n in numbers]

    @bench.task
    def add(values: list[int]) -> int:
        return sum(values)

    result = ms.chord([double.s(1) | double.s(), double.s(2)], add.s()).delay()
    bench.drain()
    assert result.get(0) == 8
    for build in (ms.starmap, ms.chunks):
        with pytest.raises(ConfigurationError, match="a batch takes many calls"):
            build(double, [(1,)], *([1] if build is ms.chunks else []))


def test_called_directly(bench: Bench) -> None:
    @bench.task(batch=ms.Batch(), bind=True)
    def index(self: ms.BoundBatch, docs: list[int]) -> list[int]:
        assert all(call.request.called_directly for call in self.calls)
        return [call.request.args[0] for call in self.calls]

    assert index([1, 2]) == [1, 2]


def test_a_batch_takes_a_list(bench: Bench) -> None:
    @bench.task(batch=ms.Batch())
    def index(doc: int) -> None: ...  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match="a batch takes"):
        index.delay(1)
