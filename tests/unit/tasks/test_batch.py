"""Batches: their bounds, when they are ripe, and what their annotations mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from millstream.primitives.errors import ConfigurationError, TaskArgumentError
from millstream.tasks.arguments import Arguments, Returned
from millstream.tasks.batch import Batch, item_of, value_of, works_of
from millstream.tasks.bound import BoundBatch
from millstream.tasks.limits import BATCH_CALLS_MAX
from millstream.tasks.message import Claimed
from millstream.tasks.options import TaskKeywords, options_of
from millstream.tasks.shape import shape_of


@pytest.mark.parametrize(
    ("most", "wait"), [(0, "1s"), (BATCH_CALLS_MAX + 1, "1s"), (1, "1h1s"), (1, "soon")]
)
def test_a_batch_has_bounds(most: int, wait: str) -> None:
    with pytest.raises(ConfigurationError):
        Batch(max=most, wait=wait)


def test_the_bounds_are_reached() -> None:
    assert Batch(max=BATCH_CALLS_MAX, wait="1h").wait_us == 3_600_000_000
    assert Batch(max=1, wait="0s").has_waited(5, 5)


def test_a_call_has_waited_from_when_it_could_run() -> None:
    batch = Batch(wait="2s")
    assert not batch.has_waited(0, 1_999_999)
    assert batch.has_waited(0, 2_000_000)
    # The clock was set back since: nobody can say how long it waits.
    assert batch.has_waited(10, 9)


@pytest.mark.parametrize(
    ("kind", "item"),
    [(list[int], int), (list, Any), (Any, Any), (Sequence[str], str), (list[list[int]], list[int])],
)
def test_a_call_gives_one_item(kind: Any, item: Any) -> None:
    assert item_of(kind, "t") == item


@pytest.mark.parametrize("kind", [int, dict[str, int], set[int], tuple[int, ...], str])
def test_what_is_no_list_is_no_batch(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="a batch takes"):
        item_of(kind, "t")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (None, None),
        (Any, Any),
        (list, Any),
        (list[int], int),
        (list[int] | None, int),
        (list[int | Exception], int),
        (list[int | str | ValueError], int | str),
        (Sequence[OSError | None], type(None)),
        (list[Exception], None),
    ],
)
def test_a_call_is_given_one_value(kind: Any, value: Any) -> None:
    assert value_of(kind, "t") == value


@pytest.mark.parametrize("kind", [int, dict[int, int], tuple[int, int], list[int] | int])
def test_a_batch_returns_a_list(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="a batch returns"):
        value_of(kind, "t")


def test_the_shape_of_one_call() -> None:
    def index(self: BoundBatch, docs: list[int]) -> list[str | Exception]: ...

    shape = shape_of(index, task="t", bind=True, batch=True)
    assert str(shape.signature) == "(docs: int) -> 'list[str | Exception]'"
    arguments = Arguments(shape)
    assert arguments.decode(arguments.encode((3,), {})) == ([], {"docs": 3})
    with pytest.raises(TaskArgumentError, match="does not fit its annotation"):
        arguments.encode((["3"],), {})
    assert Returned(shape).decode(Returned(shape).encode("x")) == "x"


def _two(docs: list[int], more: int) -> None: ...
def _none() -> None: ...
def _star(*docs: int) -> None: ...
def _named(*, docs: list[int]) -> None: ...


@pytest.mark.parametrize("function", [_two, _none, _star, _named])
def test_a_batch_has_one_parameter(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="a batch has the parameters"):
        shape_of(function, task="t", batch=True)


@pytest.mark.parametrize(
    ("option", "keywords"),
    [
        ("lock", {"lock": True}),
        ("concurrency", {"concurrency": 2}),
        ("rate_limit", {"rate_limit": "1/s"}),
        ("acks_late=False", {"acks_late": False}),
    ],
)
def test_a_batch_has_no_gates(option: str, keywords: TaskKeywords) -> None:
    with pytest.raises(ConfigurationError, match=f"a batch cannot have {option}"):
        options_of(keywords, batch=Batch())


def _call(seq: int, batch: int) -> Claimed:
    return Claimed(seq, str(seq), "t", b"", 1, 0, 0, 0, None, batch=batch)


def test_calls_of_one_number_run_together() -> None:
    works = works_of([_call(1, 0), _call(2, 0), _call(3, 3), _call(4, 3), _call(5, 5)])
    assert [[call.seq for call in work] for work in works] == [[1], [2], [3, 4], [5]]
    assert works_of([]) == []
