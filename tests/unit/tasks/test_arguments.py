"""Arguments and results: bound to the signature, checked against the annotations, stored, read back."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest

from millstream.primitives.errors import ConfigurationError, PayloadError, TaskArgumentError
from millstream.tasks.arguments import Arguments, Returned, any_arguments, decode_plain
from millstream.tasks.limits import ARGUMENT_BYTES_MAX, RESULT_BYTES_MAX, SENT_NAMES_MAX
from millstream.tasks.shape import shape_of


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Mail(msgspec.Struct):
    to: str
    body: bytes


class Colour(Enum):
    RED = "red"


class Model:
    """Looks like a pydantic model."""

    def __init__(self, n: int) -> None:
        self.n = n

    def model_dump(self, *, mode: str) -> dict[str, int]:
        return {"n": self.n}

    @classmethod
    def model_validate(cls, value: dict[str, int]) -> Model:
        return cls(**value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.n == self.n

    __hash__ = None  # type: ignore[assignment]


def resize(path: str, width: int = 320, *, crop: bool = False) -> str:
    return f"{path} {width} {crop}"


def plain(a: int, b: int = 2) -> int:
    return a + b


def only(a: int, /, b: int = 2) -> int:
    return a * 10 + b


def many(first: int, *rest: float, sep: str = "-", **more: int) -> str:
    return f"{first}{sep}{rest}{sep}{more}"


def late(*, a: int = 1, b: int) -> int:
    return a + b


def ran(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    arguments = Arguments(shape_of(function, task="t"))
    args_back, kwargs_back = arguments.decode(arguments.encode(args, kwargs))
    return function(*args_back, **kwargs_back)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (resize, ("a.jpg",), {}),
        (resize, ("a.jpg", 5), {"crop": True}),
        (resize, (), {"path": "a.jpg", "crop": True}),
        (plain, (1,), {"b": 5}),
        (only, (1,), {}),
        (only, (1,), {"b": 3}),
        (many, (1,), {}),
        (many, (1, 2.5, 3.5), {"sep": "+", "x": 1}),
        (late, (), {"b": 5}),
    ],
)
def test_a_stored_call_is_the_same_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert ran(function, *args, **kwargs) == function(*args, **kwargs)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (datetime, datetime(2013, 1, 1, 5, 15, 3, 7, tzinfo=UTC)),
        (datetime, datetime(2013, 1, 1)),  # noqa: DTZ001 - a naive one stays naive
        (date, date(2013, 1, 1)),
        (timedelta, timedelta(seconds=1.5)),
        (bytes, b"\x00\xff"),
        (Point, Point(1, 2.5)),
        (Mail, Mail("ann", b"hi")),
        (list[Point], [Point(1, 2.0)]),
        (dict[str, Mail], {"a": Mail("b", b"")}),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=5)),
        (Colour, Colour.RED),
        (Literal["a", "b"], "a"),
        (int | None, None),
        (pathlib.Path, pathlib.Path("a/b")),
        (Model, Model(3)),
    ],
)
def test_values_come_back_as_what_their_annotation_says(kind: Any, value: Any) -> None:
    def task(value: kind) -> kind: ...

    task.__annotations__ = {"value": kind, "return": kind}
    arguments = Arguments(shape_of(task, task="t"))
    assert arguments.decode(arguments.encode((value,), {})) == ([], {"value": value})
    returned = Returned(shape_of(task, task="t"))
    assert returned.decode(returned.encode(value)) == value


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "Missing|missing"),
        (("a", 1, 2), {}, "positional"),
        (("a",), {"hight": 1}, "hight"),
        (("a",), {"path": "b"}, "path"),
        ((3,), {}, "Expected `str`, got `int`"),
        (("a", "wide"), {}, "Expected `int`, got `str`"),
        (("a", 2.5), {}, "Expected `int`"),
    ],
)
def test_calls_that_the_function_would_refuse(
    args: tuple[Any, ...], kwargs: dict[str, Any], says: str
) -> None:
    for function in (resize, lambda path, width=1: None):
        if function is not resize and "Expected" in says:
            continue  # Without annotations any plain value fits.
        with pytest.raises(TaskArgumentError, match=says) as caught:
            Arguments(shape_of(function, task="shop.resize")).encode(args, kwargs)
        assert "shop.resize" in caught.value.where
        assert caught.value.expected.startswith("shop.resize(")


def test_what_cannot_be_stored() -> None:
    for value in (object(), lambda: None, 1 << 70, float, "\ud800"):
        with pytest.raises(TaskArgumentError, match="cannot be stored"):
            Arguments(shape_of(lambda value: None, task="t")).encode((value,), {})
        with pytest.raises(PayloadError, match="cannot be stored"):
            Returned(shape_of(lambda: None, task="t")).encode(value)


def test_a_result_that_is_not_what_was_promised() -> None:
    with pytest.raises(PayloadError, match="Expected `int`, got `str`") as caught:
        Returned(shape_of(plain, task="t")).encode("three")
    assert caught.value.expected.startswith("int")


def test_sizes_are_bounded() -> None:
    arguments = Arguments(shape_of(lambda data: None, task="t"))
    arguments.encode((bytes(ARGUMENT_BYTES_MAX - 100),), {})
    with pytest.raises(TaskArgumentError, match="bytes"):
        arguments.encode((bytes(ARGUMENT_BYTES_MAX),), {})
    with pytest.raises(PayloadError, match="bytes"):
        Returned(shape_of(lambda: None, task="t")).encode(bytes(RESULT_BYTES_MAX))


def test_the_workers_release_decides_the_defaults() -> None:
    def newer(a: int, b: int = 7, c: str = "new") -> None: ...

    stored = Arguments(shape_of(plain, task="t")).encode((1,), {})
    assert Arguments(shape_of(newer, task="t")).decode(stored) == ([], {"a": 1})


def test_a_message_that_a_newer_function_cannot_take() -> None:
    def newer(a: str) -> None: ...

    with pytest.raises(TaskArgumentError, match="does not fit"):
        Arguments(shape_of(newer, task="t")).decode(
            Arguments(shape_of(plain, task="t")).encode((1,), {})
        )
    with pytest.raises(TaskArgumentError):
        Arguments(shape_of(newer, task="t")).decode(b"\xff garbage")


def test_annotations_that_cannot_be_resolved() -> None:
    def broken(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigurationError, match="Nowhere"):
        Arguments(shape_of(broken, task="t"))


def test_results_without_their_task_are_plain() -> None:
    assert decode_plain(Returned(shape_of(lambda: None, task="t")).encode(Point(1, 2.0))) == {
        "x": 1,
        "y": 2.0,
    }
    with pytest.raises(PayloadError):
        decode_plain(b"")


def test_how_calls_of_other_apps_are_stored_is_remembered_for_so_many_names() -> None:
    first = any_arguments("elsewhere.first")
    assert any_arguments("elsewhere.first") is first
    assert first.task == "elsewhere.first"
    for number in range(SENT_NAMES_MAX):
        any_arguments(f"elsewhere.other_{number}")
    again = any_arguments("elsewhere.first")
    assert again is not first, "it was forgotten: the memory is bounded"
    assert again.encode((1,), {"x": 2}) == first.encode((1,), {"x": 2})
