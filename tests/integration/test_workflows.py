"""Chains, groups and chords in a real store: values, failures, callbacks, results, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import millstream as ms
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.primitives.errors import (
    ConfigurationError,
    ResultTimeout,
    TaskArgumentError,
    TaskFailed,
    TaskRevoked,
)
from millstream.tasks import workflow_plan
from millstream.tasks.limits import ARGUMENT_BYTES_MAX
from millstream.tasks.workflow_plan import DEPTH_MAX
from millstream.testing import VirtualClock
from millstream.testing.tasks import TaskTest

told: list[Any] = []


class Shop:
    """An app with tasks, and a worker in this thread."""

    def __init__(self, app: ms.App) -> None:
        self.app = app

        @app.task(name="add")
        def add(a: int, b: int = 10) -> int:
            return a + b

        @app.task(name="total")
        def total(values: list[int]) -> int:
            return sum(values)

        @app.task(name="boom", retries=0)
        def boom(*given: object) -> int:
            raise ValueError(f"boom {len(given)}")

        @app.task(name="tell")
        def tell(what: Any = None) -> Any:
            told.append(what)
            return what

        @app.task(name="tell_all")
        def tell_all(task_id: str, error: str, traceback: str) -> None:
            told.append((task_id, error, traceback))

        @app.task(name="shout")
        async def shout(text: str) -> str:
            return text.upper()

        self.add, self.total, self.boom = add, total, boom
        self.tell, self.tell_all, self.shout = tell, tell_all, shout

    def work(self) -> None:
        settings = WorkerSettings(burst=True)
        Worker(self.app.tasks_engine, self.app.tasks, settings, chance=Random(0)).run()

    def value(self, result: ms.AsyncResult[Any]) -> Any:
        self.work()
        return result.get(0)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def shop(store_path: Path, clock: VirtualClock) -> Iterator[Shop]:
    told.clear()
    with ms.App("shop", store=store_path, durability="process", clock=clock) as app:
        yield Shop(app)


# ---- values -------------------------------------------------------------------------------------


def test_a_chain_hands_on_its_values(shop: Shop) -> None:
    result = (shop.add.s(1, 2) | shop.add.s(3) | shop.add.s()).delay()
    assert shop.value(result) == 16
    assert result.parent is not None
    assert result.parent.get(0) == 6
    assert result.parent.parent is not None
    assert result.parent.parent.get(0) == 3
    assert result.parent.parent.children == (result.parent,)


def test_an_immutable_call_takes_nothing(shop: Shop) -> None:
    assert shop.value(ms.chain(shop.add.s(1, 2), shop.add.si(5, 5))()) == 10


def test_a_group(shop: Shop) -> None:
    result = ms.group(shop.add.s(n, n) for n in range(5)).delay()
    assert isinstance(result, ms.GroupResult)
    assert result.waiting()
    assert shop.value(result) == [0, 2, 4, 6, 8]
    assert [one.get(0) for one in result] == result.join(0)
    assert (len(result), result.completed_count(), result[4].get(0)) == (5, 5, 8)
    assert result.successful()


def test_a_chord_three_ways(shop: Shop) -> None:
    header = [shop.add.s(n, 0) for n in range(4)]
    results = [
        ms.chord(header)(shop.total.s()),
        ms.chord(header, shop.total.s()).delay(),
        (ms.group(header) | shop.total.s()).delay(),
    ]
    shop.work()
    assert [one.get(0) for one in results] == [6, 6, 6]
    assert isinstance(results[0].parent, ms.GroupResult)
    assert results[0].parent.get(0) == [0, 1, 2, 3]


def test_nested(shop: Shop) -> None:
    inner = ms.chord([shop.add.s(1), shop.add.s(2) | shop.add.s(3)], shop.total.s())
    outer = ms.chain(shop.add.s(100, 0), ms.group(inner, ms.group(shop.add.s(7))), shop.tell.s())
    # 101 + (102 + 3), and [107]
    assert shop.value(outer()) == [206, [107]]


def test_an_empty_group_is_an_empty_list(shop: Shop) -> None:
    assert shop.value(ms.chain(ms.group(), shop.total.s())()) == 0


def test_a_chain_that_ends_with_a_group(shop: Shop) -> None:
    result = (shop.add.s(1, 1) | ms.group(shop.add.s(1), shop.add.s(2))).delay()
    assert isinstance(result, ms.GroupResult)
    assert shop.value(result) == [3, 4]


def test_chunks_and_starmap(shop: Shop) -> None:
    result = ms.chunks(shop.add, ((n, n) for n in range(5)), 2).delay()
    assert shop.value(result) == [[0, 2], [4, 6], [8]]
    assert shop.value(ms.starmap(shop.shout, [["a"], ["b"]]).delay()) == ["A", "B"]


def test_a_step_is_sent_with_its_own_options(shop: Shop, clock: VirtualClock) -> None:
    last = shop.add.s(1).set(countdown=60, queue="slow", priority=9)
    result = (shop.add.s(1, 1) | last).delay()
    assert result.state == "blocked"
    clock.advance("1h")
    shop.work()
    status = result.status()
    assert (status.state, status.queue, status.priority) == ("scheduled", "slow", 9)
    assert status.due_us == clock.now_us() + 60_000_000


def test_a_task_by_name_takes_values_too(shop: Shop) -> None:
    assert shop.value((shop.add.s(1, 1) | shop.app.tasks.signature("add", [5])).delay()) == 7


def test_results_of_others_are_found_by_their_id(shop: Shop) -> None:
    result = (shop.add.s(1, 1) | shop.add.s(1)).delay()
    shop.work()
    assert shop.app.tasks.result(result.id).get(0) == 3


def test_without_blocking_an_event_loop(shop: Shop) -> None:
    async def send() -> list[ms.AsyncResult[Any]]:
        chained = await (shop.add.s(1, 1) | shop.add.s(1)).adelay()
        return [chained, await shop.add.aapply_async((1, 2), link=shop.tell.s())]

    first, second = asyncio.run(send())
    assert (shop.value(first), second.get(0), told) == (3, 3, [3])


def test_a_task_is_replaced(shop: Shop) -> None:
    @shop.app.task(name="twice", bind=True)
    def twice(self: ms.BoundTask, n: int, deep: bool = False) -> int:
        inner = ms.chain(shop.add.s(n, n), shop.add.s(0))
        self.replace(twice.s(n) if deep else inner)

    plain = twice.delay(2)
    deep = twice.delay(3, deep=True)
    inside = ms.chord([twice.s(1), shop.add.s(1, 1)])(shop.total.s())
    after = (twice.s(5) | shop.add.s(1)).on_error(shop.tell.s()).delay()
    shop.work()
    assert [one.get(0) for one in (plain, deep, inside, after)] == [4, 6, 4, 11]
    assert shop.app.tasks.result(plain.id).get(0) == 4
    with pytest.raises(ConfigurationError, match="directly"):
        twice(1)


def test_what_replaces_a_task_fails_it(shop: Shop) -> None:
    @shop.app.task(name="worse", bind=True)
    def worse(self: ms.BoundTask) -> int:
        self.replace(shop.boom.s())

    plain = worse.delay()
    inside = ms.chord([worse.s(), shop.add.s(1, 1)])(shop.total.s())
    shop.work()
    with pytest.raises(TaskFailed, match="boom 0"):
        plain.get(0)
    with pytest.raises(TaskFailed, match="ChordError"):
        inside.get(0)


# ---- failures and callbacks ---------------------------------------------------------------------


def test_a_chain_ends_where_it_fails(shop: Shop) -> None:
    result = (shop.add.s(1, 1) | shop.boom.s() | shop.tell.s() | shop.tell.s()).delay()
    shop.work()
    with pytest.raises(TaskFailed, match="boom 1"):
        result.get(0)
    assert result.parent is not None
    assert result.parent.failed()
    assert told == []


def test_callbacks_of_one_call(shop: Shop) -> None:
    result = shop.add.apply_async((1, 2), link=shop.tell.s())
    assert shop.value(result) == 3
    assert [one.get(0) for one in result.children] == [3]
    failed = shop.boom.apply_async(
        link=shop.tell.s(), link_error=[shop.tell.s(), shop.tell_all.s()]
    )
    shop.work()
    assert failed.failed()
    assert told[:2] == [3, failed.id]
    task_id, error, traceback = told[2]
    assert (task_id, error) == (failed.id, "ValueError: boom 0")
    assert "raise ValueError" in traceback
    assert len(told) == 3


def test_a_member_that_fails_fails_the_chord(shop: Shop) -> None:
    header = [shop.add.s(1, 1), shop.boom.s(), shop.tell.s("ran")]
    body = shop.total.s().on_error(shop.tell_all.s())
    result = ms.chord(header)(body)
    shop.work()
    with pytest.raises(TaskFailed, match=r"ChordError: Dependency .* raised ValueError: boom 0"):
        result.get(0)
    assert told[0] == "ran"
    assert told[1][0] == result.id
    assert told[1][1].startswith("ChordError")
    assert isinstance(result.parent, ms.GroupResult)
    first, second, third = result.parent.get(0, propagate=False)
    assert (first, third) == (2, "ran")
    assert isinstance(second, TaskFailed)


def test_a_chain_tells_of_its_failure_once(shop: Shop) -> None:
    workflow = ms.chain(shop.boom.s(), shop.tell.s()).on_error(shop.tell.s())
    workflow.delay()
    ms.group(shop.boom.s(), shop.boom.s(1)).apply_async(link_error=shop.tell.s())
    shop.work()
    assert len(told) == 3  # One of the chain, one for each member of the group.


def test_a_value_that_does_not_fit_fails_the_step(shop: Shop) -> None:
    result = (shop.shout.s("a") | shop.total.s()).delay()
    shop.work()
    with pytest.raises(TaskFailed, match="does not fit"):
        result.get(0)


def test_revoking_a_member_fails_the_chord(shop: Shop) -> None:
    result = ms.chord([shop.add.s(1, 1), shop.add.s(2, 2)])(shop.total.s())
    assert isinstance(result.parent, ms.GroupResult)
    assert result.parent.revoke()
    shop.work()
    with pytest.raises(TaskRevoked):
        result.parent[0].get(0)
    with pytest.raises(TaskFailed, match="TaskRevoked"):
        result.get(0)


def test_who_asks_too_early_waits(shop: Shop) -> None:
    result = (shop.add.s(1, 1) | shop.add.s(1)).delay()
    with pytest.raises(ResultTimeout):
        result.get(0)


def test_a_requeued_step_runs_alone(shop: Shop) -> None:
    result = (shop.boom.s() | shop.tell.s()).delay()
    shop.work()
    assert result.parent is not None
    assert shop.app.tasks.control.requeue([result.parent.id]) == 1
    shop.work()
    assert result.failed()
    assert told == []


@pytest.mark.parametrize("mode", ["inline", "manual"])
def test_in_the_test_kit_of_users(shop: Shop, tmp_path: Path, mode: Any) -> None:
    with TaskTest(shop.app, tmp_path / "kit", mode=mode) as kit:
        result = ms.chord([shop.add.s(1, 1), shop.add.s(2, 2)])(shop.total.s())
        kit.assert_enqueued(shop.add, 1, 1)
        if mode == "manual":
            assert kit.drain() == 3
        assert result.get(0) == 6


# ---- what is refused, forgotten, bounded --------------------------------------------------------


def test_what_cannot_be_a_workflow(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="no steps"):
        ms.chain()
    with pytest.raises(ConfigurationError, match="without a call"):
        ms.group().delay()
    with pytest.raises(ConfigurationError, match="part of a workflow"):
        ms.group(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="task_id"):
        ms.group(shop.add.s(1).set(task_id="x")).delay()
    with pytest.raises(ConfigurationError, match="callbacks"):
        shop.app.tasks.enqueue_many([shop.add.s(1).on_error(shop.tell.s())])
    with pytest.raises(ConfigurationError, match="chunks of 0"):
        ms.chunks(shop.add, [], 0)
    with pytest.raises(TaskArgumentError, match="does not fit the task"):
        (shop.add.s(1) | shop.add.s(1, 2)).delay()
    with pytest.raises(TaskArgumentError):
        ms.group(shop.add.s(1), shop.add.s("one")).delay()  # type: ignore[arg-type]
    assert sum(shop.app.tasks_engine.depth().values()) == 0
    deep: Any = shop.add.s(1)
    for _ in range(DEPTH_MAX + 1):
        deep = ms.group(deep)
    with pytest.raises(ConfigurationError, match="100 levels"):
        deep.delay()
    monkeypatch.setattr(workflow_plan, "NODES_MAX", 10)
    with pytest.raises(ConfigurationError, match="more than 10 nodes"):
        ms.group(shop.add.s(n) for n in range(10)).delay()


def test_as_deep_as_it_may_be(shop: Shop) -> None:
    deep: Any = shop.add.s(1)
    for _ in range(DEPTH_MAX):
        deep = ms.group(deep)
    value = shop.value(deep.delay())
    for _ in range(DEPTH_MAX):
        (value,) = value
    assert value == 11


def test_values_that_are_too_much_together(shop: Shop) -> None:
    @shop.app.task(name="large")
    def large() -> bytes:
        return bytes(ARGUMENT_BYTES_MAX // 2 + 1)

    result = ms.chord([large.s(), large.s()])(shop.tell.s())
    shop.work()
    with pytest.raises(TaskFailed, match="the values handed to it take"):
        result.get(0)


def test_a_workflow_is_forgotten_a_day_after_its_end(shop: Shop, clock: VirtualClock) -> None:
    first = (shop.add.s(1, 1) | shop.add.s(1)).delay()
    waiting = shop.add.s(1, 1).set(countdown=10**6).on_error(shop.tell.s()).delay()
    shop.work()
    clock.advance("2d")
    ms.group(shop.add.s(1)).delay()
    with shop.app.tasks_engine.store.read() as snapshot:
        assert snapshot.run("workflows/by_id", (first.id,)) == []
        assert snapshot.run("workflows/by_id", (waiting.id,)) != []
