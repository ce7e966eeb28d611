"""What a task asks for by itself: other arguments, another queue, no further try, no trace; and what it knows."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.primitives.errors import (
    ConfigurationError,
    Ignore,
    Reject,
    TaskArgumentError,
    TaskFailed,
    UnknownTask,
)
from millstream.store import Store
from millstream.tasks.limits import RETRIES_MAX
from millstream.tasks.retry import GiveUp, RetryPolicy, TryAgain, after_failure
from tests.tasks_kit import Bench


@pytest.fixture
def bench(store_path: Path) -> Iterator[Bench]:
    with Store.open(store_path, durability="process") as store:
        yield Bench(store)


@pytest.mark.parametrize(
    ("change", "second"),
    [
        ({}, (1, 2)),
        ({"args": (5,)}, (5, 2)),
        ({"args": (5, 6)}, (5, 6)),
        ({"kwargs": {"b": 7}}, (1, 7)),
        ({"args": (5,), "kwargs": {"b": 7}}, (5, 7)),
    ],
)
def test_a_retry_changes_arguments(
    bench: Bench, change: dict[str, Any], second: tuple[int, int]
) -> None:
    seen: list[tuple[int, int]] = []

    @bench.task(bind=True)
    def add(self: ms.BoundTask, a: int, b: int) -> int:
        seen.append((a, b))
        if not self.request.retries:
            raise self.retry(countdown=0, exc=OSError("no"), **change)
        return a + b

    result = add.delay(1, 2)
    bench.drain()
    assert seen == [(1, 2), second]
    assert result.get(0) == sum(second)
    assert [one.error_type for one in result.attempts()] == ["OSError"]


def test_a_retry_changes_queue_and_priority(bench: Bench) -> None:
    seen: list[tuple[str, int]] = []

    @bench.task(bind=True)
    def move(self: ms.BoundTask) -> None:
        seen.append((self.request.queue, self.request.priority))
        if not self.request.retries:
            raise self.retry(countdown=0, queue="slow", priority=1)

    result = move.delay()
    bench.drain()
    assert result.state in (ms.TaskState.RETRYING, ms.TaskState.QUEUED)
    bench.drain("slow")
    assert result.get(0) is None
    assert seen == [("default", 5), ("slow", 1)]


def test_a_retry_with_arguments_that_do_not_fit_fails(bench: Bench) -> None:
    @bench.task(bind=True)
    def add(self: ms.BoundTask, a: int, how: str) -> int:
        if how == "args":
            raise self.retry(args=("one",))
        raise self.retry(queue="a,b")

    by_type, by_queue = add.delay(1, "args"), add.apply_async((1, "queue"))
    bench.drain()
    assert by_type.attempts()[0].error_type.endswith(TaskArgumentError.__name__)
    assert by_type.state is ms.TaskState.FAILED
    assert by_queue.attempts()[0].error_type.endswith(ConfigurationError.__name__)


def test_what_was_rejected_is_dead_at_once(bench: Bench) -> None:
    @bench.task(retries=5)
    def check(user: str) -> None:
        raise Reject(f"there is no {user}")

    result = check.delay("ann")
    bench.drain()
    assert len(result.attempts()) == 1
    with pytest.raises(TaskFailed, match="there is no ann"):
        result.get(0)
    assert bench.engine.control.requeue([result.id]) == 1


def test_what_was_rejected_may_go_back_to_its_queue(bench: Bench) -> None:
    """As a failed attempt, but whatever the policy says of retries; bounded by the greatest bound of all."""
    runs: list[int] = []

    @bench.task(retries=0)
    def check() -> int:
        runs.append(1)
        if len(runs) < 4:
            raise Reject(requeue=True)
        return len(runs)

    result = check.delay()
    bench.drain()
    assert result.get(0) == 4
    assert len(result.attempts()) == 3

    def verdict(failures: int) -> object:
        error = Reject(requeue=True)
        return after_failure(RetryPolicy(), failures=failures, error=error, chance=_NO_CHANCE)

    assert verdict(RETRIES_MAX) == TryAgain(0)
    assert isinstance(verdict(RETRIES_MAX + 1), GiveUp)


class _NoChance:
    def random(self) -> float:
        raise AssertionError("nothing is drawn")


_NO_CHANCE = _NoChance()


def test_what_is_ignored_leaves_nothing(bench: Bench) -> None:
    @bench.task
    def forget() -> int:
        raise Ignore

    @bench.task
    def show(value: int | None) -> str:
        return repr(value)

    @bench.task(batch=ms.Batch(max=2, wait="1ms"))
    def index(docs: list[int]) -> list[int | Exception]:
        return [Ignore() if doc == 1 else doc for doc in docs]

    result, chained = forget.delay(), (forget.s() | show.s()).delay()
    gone, kept = index.map([1, 2])
    bench.drain()
    for one in (result, gone):
        with pytest.raises(UnknownTask):
            one.get(0)
    assert chained.get(0) == "None"
    assert kept.get(0) == 2


def test_a_task_knows_where_it_runs(bench: Bench) -> None:
    seen: list[ms.BoundTask] = []

    @bench.task(bind=True)
    def look(self: ms.BoundTask, *values: int | list[int]) -> int:
        seen.append(self)
        return 1

    single = look.delay()
    bench.drain()
    request = seen.pop().request
    assert (request.root_id, request.group) == (single.id, None)
    assert request.hostname.startswith(platform.node())
    assert request.delivery_info == {
        "routing_key": "default",
        "priority": 5,
        "redelivered": False,
    }
    header = ms.group([look.s(1), look.s(2) | look.s()])
    whole = ms.chain(look.s(0), header, look.s()).delay()
    bench.drain()
    assert len({one.request.root_id for one in seen}) == 1
    assert whole.get(0) == 1
    groups = [one.request.group for one in seen]
    assert groups[0] is groups[-1] is None
    assert len(set(groups[1:4])) == 1
    assert groups[1] is not None
    look()
    assert seen[-1].request.root_id is None
