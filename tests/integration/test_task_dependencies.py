"""Dependencies in workers of every pool: what is shared, when it is closed, and what a failure does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import millstream as ms
from millstream.engines.local.worker import WorkerSettings
from millstream.engines.local.worker_kind import PoolKind
from millstream.engines.local.worker_many import ManyWorker
from millstream.primitives.errors import TaskArgumentError, TaskFailed
from millstream.store import Store
from millstream.testing.tasks import TaskTest
from tests.tasks_kit import Bench

POOLS = ["solo", "thread", "async"]


@pytest.fixture
def bench(store_path: Path) -> Iterator[Bench]:
    with Store.open(store_path, durability="process") as store:
        yield Bench(store)


def drain(bench: Bench, pool: str, *, concurrency: int = 4) -> None:
    if pool == "solo":
        bench.drain()
        return
    ManyWorker(
        bench.engine,
        bench.tasks,
        WorkerSettings(burst=True),
        kind=PoolKind(pool),
        concurrency=concurrency,
        chance=Random(0),
    ).run()


class Connection:
    """Counts what is opened, and says what became of it."""

    opened = 0

    def __init__(self) -> None:
        type(self).opened += 1
        self.number = type(self).opened
        self.end = ""


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    Connection.opened = 0


@pytest.mark.parametrize("pool", POOLS)
def test_each_attempt_has_its_own_and_the_worker_one_for_all(bench: Bench, pool: str) -> None:
    ends: list[str] = []
    barrier = threading.Barrier(1 if pool == "solo" else 4)

    def shared() -> Iterator[Connection]:
        yield Connection()
        ends.append("shared")

    def transaction(db: Connection = ms.Depends(shared, scope="worker")) -> Iterator[Connection]:
        yield db
        ends.append("task")

    @bench.task
    def save(n: int, db: Connection = ms.Depends(transaction)) -> int:
        barrier.wait(60)
        return 10 * n + db.number

    results = [save.delay(n) for n in range(8)]
    drain(bench, pool)
    assert [one.get(0) for one in results] == [10 * n + 1 for n in range(8)]
    assert ends == ["task"] * 8 + ["shared"]


@pytest.mark.parametrize("pool", ["solo", "async"])
def test_async_providers_live_on_the_loop_of_their_worker(bench: Bench, pool: str) -> None:
    loops: list[Any] = []
    ends: list[str] = []

    async def pool_of_connections() -> AsyncIterator[Connection]:
        loops.append(asyncio.get_running_loop())
        yield Connection()
        assert asyncio.get_running_loop() is loops[0]
        ends.append("pool")

    async def connection(
        shared: Connection = ms.Depends(pool_of_connections, scope="worker"),
    ) -> AsyncIterator[Connection]:
        await asyncio.sleep(0)
        yield shared
        ends.append("connection")

    @bench.task
    async def save(n: int, db: Connection = ms.Depends(connection)) -> int:
        assert asyncio.get_running_loop() is loops[0]
        return 10 * n + db.number

    results = save.map(range(5))
    drain(bench, pool)
    assert [one.get(0) for one in results] == [10 * n + 1 for n in range(5)]
    assert ends == ["connection"] * 5 + ["pool"]


def test_threads_share_no_async_provider(bench: Bench) -> None:
    async def shared() -> Connection:
        return Connection()

    @bench.task(retries=0)
    async def save(db: Connection = ms.Depends(shared, scope="worker")) -> int:
        return db.number

    @bench.task(retries=0)
    async def save_alone(db: Connection = ms.Depends(shared)) -> int:
        return db.number

    refused, good = save.delay(), save_alone.delay()
    drain(bench, "thread")
    with pytest.raises(TaskFailed, match="cannot be shared by this worker"):
        refused.get(0)
    assert good.get(0) == 1


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("is_async", [False, True])
def test_the_error_of_an_attempt_is_passed_in(bench: Bench, pool: str, is_async: bool) -> None:
    ends: list[str] = []

    def transaction() -> Iterator[Connection]:
        try:
            yield Connection()
        except Exception as error:
            ends.append(f"rolled back: {error}")
            raise
        ends.append("committed")

    if is_async:

        @bench.task(retries=1, backoff=ms.Backoff.constant("0s"))
        async def save(n: int, db: Connection = ms.Depends(transaction)) -> int:
            if db.number == 1:
                raise ValueError("no")
            return n
    else:

        @bench.task(retries=1, backoff=ms.Backoff.constant("0s"))
        def save(n: int, db: Connection = ms.Depends(transaction)) -> int:
            if db.number == 1:
                raise ValueError("no")
            return n

    result = save.delay(7)
    drain(bench, pool)
    assert result.get(0) == 7
    assert ends == ["rolled back: no", "committed"]
    trace = result.attempts()[0].traceback
    assert "worker_execute" not in trace
    assert "opened.py" not in trace


def test_a_result_that_cannot_be_stored_is_an_error_inside(bench: Bench) -> None:
    ends: list[str] = []

    def transaction() -> Iterator[int]:
        try:
            yield 1
            ends.append("committed")
        except ms.errors.PayloadError:
            ends.append("rolled back")
            raise

    @bench.task
    def save(db: int = ms.Depends(transaction)) -> object:
        return object()

    result = save.delay()
    bench.drain()
    with pytest.raises(TaskFailed, match="cannot be stored"):
        result.get(0)
    assert ends == ["rolled back"]


def test_a_provider_that_raises_is_a_failed_attempt(bench: Bench) -> None:
    """By the policy of the task; the error says which provider it was."""

    def connect() -> Connection:
        connection = Connection()
        if connection.number < 3:
            raise ConnectionError("refused")
        return connection

    @bench.task(retries=2, backoff=ms.Backoff.constant("0s"), autoretry_for=(ConnectionError,))
    def save(db: Connection = ms.Depends(connect, scope="worker")) -> int:
        return db.number

    result = save.delay()
    bench.drain()
    assert result.get(0) == 3
    assert [one.error for one in result.attempts()] == ["refused", "refused"]
    assert "while the dependency" in result.attempts()[0].traceback
    assert "connect" in result.attempts()[0].traceback


def test_an_error_while_closing_fails_the_attempt(bench: Bench) -> None:
    def transaction() -> Iterator[int]:
        yield 1
        raise OSError("the commit failed")

    @bench.task(retries=0)
    def save(db: int = ms.Depends(transaction)) -> int:
        return db

    result = save.delay()
    bench.drain()
    with pytest.raises(TaskFailed, match="the commit failed"):
        result.get(0)


def test_an_error_while_closing_the_shared_is_the_workers(bench: Bench) -> None:
    """After everything is committed and given back."""

    def shared() -> Iterator[int]:
        yield 1
        raise OSError("cannot be closed")

    @bench.task
    def save(db: int = ms.Depends(shared, scope="worker")) -> int:
        return db

    result = save.delay()
    with pytest.raises(OSError, match="cannot be closed"):
        bench.drain()
    assert result.get(0) == 1


def test_bound_tasks_batches_and_workflows_have_dependencies(bench: Bench) -> None:
    @bench.task(bind=True)
    def add(self: ms.BoundTask, n: int, db: Connection = ms.Depends(Connection)) -> int:
        assert self.request.kwargs == {"n": n}
        return n + db.number

    @bench.task(batch=ms.Batch(max=5, wait="1ms"))
    def double(ns: list[int], *, db: Connection = ms.Depends(Connection)) -> list[int | Exception]:
        return [n * 2 if n else ValueError("zero") for n in ns]

    chained = (add.s(1) | double.s()).delay()
    zero = double.apply_async((0,))
    bench.drain()
    assert chained.get(0) == 4
    with pytest.raises(TaskFailed, match="zero"):
        zero.get(0)


def test_callers_cannot_give_what_is_injected(bench: Bench) -> None:
    @bench.task
    def save(n: int, db: Connection = ms.Depends(Connection)) -> int:
        return n

    for send in (
        lambda: save.delay(1, Connection()),
        lambda: save.delay(1, db=Connection()),
        lambda: save.apply_async((1,), {"db": 3}),
    ):
        with pytest.raises(TaskArgumentError, match=r"save\(n: int\) -> 'int'|save\(n"):
            send()
    assert Connection.opened == 2


def test_called_directly(bench: Bench) -> None:
    """Opened for the call, those of the worker too; what is given is not opened."""
    ends: list[int] = []

    def shared() -> Iterator[Connection]:
        connection = Connection()
        yield connection
        ends.append(connection.number)

    @bench.task
    def save(n: int, db: Connection = ms.Depends(shared, scope="worker")) -> int:
        return 10 * n + db.number

    @bench.task
    async def fetch(n: int, db: Connection = ms.Depends(shared)) -> int:
        return 10 * n + db.number

    @bench.task(batch=ms.Batch())
    def double(ns: list[int], db: Connection = ms.Depends(shared)) -> list[int]:
        return [n * 2 for n in ns]

    assert (save(1), save(2)) == (11, 22)
    assert asyncio.run(fetch(3)) == 33
    assert double([1, 2]) == [2, 4]
    assert ends == [1, 2, 3, 4]
    assert save(1, Connection()) == 15
    assert save(1, db=Connection()) == 16
    assert ends == [1, 2, 3, 4]


def test_tests_replace_providers(tmp_path: Path) -> None:
    ends: list[str] = []
    app = ms.App("shop", store=tmp_path / "shop.mill")

    def connect() -> Connection:
        raise ConnectionError("no database here")

    def fake() -> Iterator[str]:
        yield "fake"
        ends.append("closed")

    @app.task
    def save(n: int, db: Connection | str = ms.Depends(connect, scope="worker")) -> str:
        return f"{n} {db}"

    with TaskTest(app, tmp_path, mode="inline"), app.override(connect, fake):
        assert save.delay(1).get() == "1 fake"
        assert save(2) == "2 fake"
        with app.override(connect, lambda: "other"):
            assert save(3) == "3 other"
        assert save(4) == "4 fake"
        assert ends == ["closed"] * 2
    assert ends == ["closed"] * 3
    with pytest.raises(ConnectionError):
        save(5)
