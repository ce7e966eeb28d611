"""Whatever an annotation names comes back as it was, as an argument and as a result, and nothing else does."""

from __future__ import annotations

import dataclasses
import enum
import operator
import pathlib
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import polars as pl
import pyarrow as pa
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.primitives.errors import ConfigurationError, PayloadError, TaskArgumentError
from millstream.tasks.arguments import AnyArguments, Arguments, Returned, decode_plain
from millstream.tasks.frames import from_extension
from millstream.tasks.shape import shape_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    name: str
    tags: frozenset[str] = frozenset()


class Mail(msgspec.Struct, frozen=True):
    to: str
    at: datetime
    body: bytes = b""


class Order(pydantic.BaseModel):
    number: int
    total: Decimal
    lines: list[str] = []


class Pair(NamedTuple):
    left: int
    right: str


class Movie(TypedDict):
    title: str
    year: int


integers = st.integers(-(2**63), 2**63 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
instants = st.datetimes(timezones=st.just(UTC))
numbers = st.decimals(allow_nan=False, allow_infinity=False)
paths = st.builds(pathlib.Path, st.text("ab./", min_size=1))
rows = st.lists(st.tuples(integers, text | st.none(), instants), max_size=5)


def table_of(values: list[tuple[int, str | None, datetime]]) -> pa.Table:
    types = [pa.int64(), pa.string(), pa.timestamp("us", "UTC")]
    columns = [pa.array([row[n] for row in values], kind) for n, kind in enumerate(types)]
    return pa.table(dict(zip("abc", columns, strict=True)))


tables = st.builds(table_of, rows)
batches = tables.map(lambda table: pa.RecordBatch.from_pylist(table.to_pylist(), table.schema))
frames = tables.map(pl.DataFrame)

KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (bool, st.booleans()),
    (int, integers),
    (float, st.floats(allow_nan=False)),
    (str, text),
    (bytes, st.binary()),
    (bytearray, st.binary().map(bytearray)),
    (datetime, instants | st.datetimes()),
    (date, st.dates()),
    (time, st.times()),
    (timedelta, st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6))),
    (UUID, st.uuids()),
    (Decimal, numbers),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Rights, st.sampled_from([Rights(0), Rights.READ, Rights.READ | Rights.WRITE])),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (pathlib.Path, paths),
    (set[int], st.sets(integers)),
    (frozenset[UUID], st.frozensets(st.uuids())),
    (tuple[int, str, None], st.tuples(integers, text, st.none())),
    (tuple[Colour, ...], st.lists(st.sampled_from(Colour)).map(tuple)),
    (list[pathlib.Path | None], st.lists(paths | st.none())),
    (
        dict[UUID, list[Decimal]],
        st.dictionaries(st.uuids(), st.lists(numbers, max_size=2), max_size=3),
    ),
    (dict[date, set[str]], st.dictionaries(st.dates(), st.sets(text, max_size=2), max_size=3)),
    (int | str | None, integers | text | st.none()),
    (Pair, st.builds(Pair, integers, text)),
    (Movie, st.fixed_dictionaries({"title": text, "year": integers})),
    (Point, st.builds(Point, integers, text, st.frozensets(text, max_size=2))),
    (list[Point], st.lists(st.builds(Point, integers, text), max_size=3)),
    (Mail, st.builds(Mail, text, instants, st.binary())),
    (Order, st.builds(Order, number=integers, total=numbers, lines=st.lists(text, max_size=2))),
    (pa.Table, tables),
    (pa.RecordBatch, batches),
    (pl.DataFrame, frames),
    (list[pl.DataFrame], st.lists(frames, max_size=2)),
    (dict[str, pa.Table], st.dictionaries(text, tables, max_size=2)),
]
TABULAR = (pa.Table, pa.RecordBatch, pl.DataFrame)


def function_of(kind: Any) -> Callable[..., Any]:
    def function(value: Any, *rest: Any, **named: Any) -> Any:
        return value

    function.__annotations__ = {"value": kind, "rest": kind, "named": kind, "return": kind}
    return function


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, TABULAR):
        return bool(one.equals(other))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(operator.eq(one, other))


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=[str(kind) for kind, _ in KINDS])
def test_arguments_and_results_come_back(kind: Any, values: st.SearchStrategy[Any]) -> None:
    shape = shape_of(function_of(kind), task="t")
    arguments, returned, by_name = Arguments(shape), Returned(shape), AnyArguments("t")

    @given(first=values, second=values, third=values)
    @settings(max_examples=30, deadline=None)
    def check(first: Any, second: Any, third: Any) -> None:
        args, kwargs = arguments.decode(arguments.encode((first, second), {"third": third}))
        assert same([*args, kwargs], [first, second, {"third": third}])
        # Sent by name, by someone who does not know the task: read by its annotations all the same.
        args, kwargs = arguments.decode(by_name.encode((first,), {"third": third}))
        assert same([*args, kwargs], [first, {"third": third}])
        assert same(returned.decode(returned.encode(first)), first)

    check()


@given(table=tables, frame=frames)
@settings(max_examples=20, deadline=None)
def test_tables_need_no_annotation(table: pa.Table, frame: pl.DataFrame) -> None:
    arguments = Arguments(shape_of(lambda value: None, task="t"))
    for value in (table, frame):
        ((), kwargs), _ = arguments.decode(arguments.encode((value,), {})), None
        assert same(kwargs["value"], value)
    assert same(decode_plain(Returned(shape_of(lambda: None, task="t")).encode(table)), table)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, "1"),
        (int, 1.5),
        (str, 1),
        (bytes, "text"),
        (datetime, "yesterday"),
        (date, 3),
        (timedelta, "an hour"),
        (UUID, "no-uuid"),
        (Decimal, "1,5"),
        (Colour, "green"),
        (Literal["a"], "b"),
        (pathlib.Path, 3),
        (set[int], {"a"}),
        (tuple[int, str], (1, 2)),
        (Point, {"x": 1}),
        (Mail, Point(1, "a")),
        (Order, {"number": "many", "total": 1}),
        (pa.Table, [1, 2]),
        (pa.Table, pl.DataFrame({"a": [1]})),
        (pl.DataFrame, pa.table({"a": [1]})),
        (pa.RecordBatch, None),
        (int, 2**64),
        (int, Colour.RED),
        (complex, 1j),
        (object, object()),
        (str, "\ud800"),
    ],
)
def test_what_does_not_fit_is_refused_on_both_sides(kind: Any, value: Any) -> None:
    shape = shape_of(function_of(kind), task="shop.task")
    with pytest.raises(TaskArgumentError, match=r"shop\.task"):
        Arguments(shape).encode((value,), {})
    with pytest.raises(PayloadError, match=r"shop\.task"):
        Returned(shape).encode(value)
    anything = AnyArguments("shop.task")
    try:
        unchecked = anything.encode((value,), {})
    except TaskArgumentError:
        return
    with pytest.raises(TaskArgumentError, match=r"shop\.task"):
        Arguments(shape).decode(unchecked)


@pytest.mark.parametrize("kind", [pathlib.Path | int, pa.Table | pl.DataFrame])
def test_types_that_cannot_be_stored_are_refused_before_anything_is_sent(kind: Any) -> None:
    shape = shape_of(function_of(kind), task="shop.task")
    for make in (Arguments, Returned):
        with pytest.raises(ConfigurationError, match="cannot be stored"):
            make(shape)


def test_an_extension_that_is_no_table_stays_what_it_is() -> None:
    assert from_extension(99, memoryview(b"x")) == msgspec.msgpack.Ext(99, b"x")


def test_a_table_that_is_damaged_is_an_error() -> None:
    arguments = Arguments(shape_of(function_of(pa.Table), task="t"))
    data = bytearray(arguments.encode((pa.table({"a": [1, 2, 3]}),), {}))
    for place in range(20, 60):
        data[place] ^= 0xFF
    with pytest.raises(TaskArgumentError, match="does not fit its annotation"):
        arguments.decode(bytes(data))
