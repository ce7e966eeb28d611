"""Typed columns: what is a schema, and which data fits one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pytest

from millstream.primitives.errors import SchemaError
from millstream.primitives.schema import (
    TIMESTAMP,
    Timestamp,
    conform,
    datetime_us,
    describe,
    rows_to_batch,
    schema_from_bytes,
    schema_to_bytes,
    to_arrow_schema,
    us_datetime,
)
from tests.refusals import refused

WHERE = "topic 'clicks'"


def column(kind: Any) -> pa.Field:
    return to_arrow_schema({"x": kind}).field("x")


def fit(values: Any, kind: Any) -> list[Any]:
    """Conform a table of one column, given as Arrow data."""
    table = pa.table({"x": values})
    found: list[Any] = conform(table, to_arrow_schema({"x": kind}), where=WHERE)["x"].to_pylist()
    return found


def rows(values: list[Any], kind: Any) -> list[Any]:
    """Make a batch of one column of events given as dicts."""
    schema = to_arrow_schema({"x": kind})
    batch = rows_to_batch([{"x": value} for value in values], schema, where=WHERE)
    found: list[Any] = batch.column(0).to_pylist()
    return found


# ---- schemas ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "arrow"),
    [
        (str, pa.string()),
        (int, pa.int64()),
        (float, pa.float64()),
        (bool, pa.bool_()),
        (bytes, pa.binary()),
        (date, pa.date32()),
        (datetime, TIMESTAMP),
        (Timestamp, TIMESTAMP),
        (timedelta, pa.duration("us")),
        (Decimal, pa.decimal128(38, 9)),
        (list[int], pa.list_(pa.int64())),
        (list[list[str]], pa.list_(pa.list_(pa.string()))),
        (pa.int8(), pa.int8()),
    ],
)
def test_a_python_type_means_an_arrow_type_that_is_not_null(kind: Any, arrow: pa.DataType):
    assert column(kind) == pa.field("x", arrow, nullable=False)


@pytest.mark.parametrize("kind", [int | None, Optional[int], None | int])  # noqa: UP045 - as users write it
def test_or_none_means_that_the_column_may_be_null(kind: Any):
    assert column(kind) == pa.field("x", pa.int64(), nullable=True)


@pytest.mark.parametrize(
    "kind", [dict, object, "int", int | str, int | str | None, complex, None, list, 5]
)
def test_what_cannot_be_a_column_is_refused(kind: Any):
    with refused(SchemaError, "'x'", "list[…]"):
        to_arrow_schema({"x": kind})


def test_a_schema_has_columns_and_each_once():
    with refused(SchemaError, somewhere=False):
        to_arrow_schema({})
    with refused(SchemaError, "a, a"):
        to_arrow_schema(pa.schema([("a", pa.int8()), ("a", pa.int8())]))


def test_an_arrow_schema_is_taken_as_it_is_but_for_dictionaries():
    given = pa.schema(
        [pa.field("a", pa.dictionary(pa.int8(), pa.string()), nullable=False), ("b", pa.float32())]
    )
    wanted = pa.schema([pa.field("a", pa.string(), nullable=False), ("b", pa.float32())])
    assert to_arrow_schema(given) == wanted


def test_a_schema_is_described_in_one_line():
    assert (
        describe(to_arrow_schema({"user": str, "n": int | None}))
        == "user: string not null, n: int64"
    )


def test_a_schema_comes_back_from_its_bytes():
    schema = to_arrow_schema({"a": str, "b": list[Decimal] | None, "c": Timestamp})
    assert schema_from_bytes(schema_to_bytes(schema)).equals(schema, check_metadata=True)


# ---- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        (pa.array([1, 2], pa.int8()), int, [1, 2]),
        (pa.array([1, 2], pa.uint64()), int, [1, 2]),
        (pa.array([1, 2]), float, [1.0, 2.0]),
        (pa.array([1.0, 2.0]), int, [1, 2]),
        (pa.array(["a"], pa.large_string()), str, ["a"]),
        (pa.array(["a"], pa.string_view()), str, ["a"]),
        (pa.array(["a"]).dictionary_encode(), str, ["a"]),
        (pa.array(["a"]), bytes, [b"a"]),
        (pa.array([b"\xc3\xa4"]), str, ["ä"]),
        (pa.array([None]), int | None, [None]),
        (pa.array([[1], []], pa.list_(pa.int8())), list[int], [[1], []]),
        (pa.array([[]]), list[str], [[]]),
        (pa.array([date(2026, 1, 2)], pa.date64()), date, [date(2026, 1, 2)]),
        (pa.array([5_000], pa.timestamp("ns", "UTC")), Timestamp, [us_datetime(5)]),
        (pa.array([5], pa.timestamp("s", "Asia/Tokyo")), Timestamp, [us_datetime(5_000_000)]),
        (pa.array([Decimal("1.5")]), Decimal, [Decimal("1.500000000")]),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_table_is_cast_where_nothing_is_lost(values: pa.Array, kind: Any, found: list[Any]):
    assert fit(values, kind) == found


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array(["1"]), int),
        (pa.array(["1.5"]), float),
        (pa.array(["true"]), bool),
        (pa.array(["2026-01-01T00:00:00Z"]), Timestamp),
        (pa.array([b"1"]), int),
        (pa.array([1]), str),
        (pa.array([1]), bool),
        (pa.array([True]), int),
        (pa.array([True]), float),
        (pa.array([True]), str),
        (pa.array([1.5]), int),
        (pa.array([float("nan")]), int),
        (pa.array([2**53 + 1]), float),
        (pa.array([2**64 - 1], pa.uint64()), int),
        (pa.array([b"\xff"]), str),
        (pa.array([1_500], pa.timestamp("ns", "UTC")), Timestamp),
        (pa.array([date(2026, 1, 1)]), Timestamp),
        (pa.array([datetime(2026, 1, 1, tzinfo=UTC)]), date),
        (pa.array([Decimal("0.0000000001")]), Decimal),
        (pa.array([["1"]]), list[int]),
        (pa.array([[1]]), int),
        (pa.array([1]), list[int]),
        (pa.array([{"a": 1}]), str),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_table_of_another_type_is_refused_and_never_cut_or_guessed(values: pa.Array, kind: Any):
    with refused(SchemaError, WHERE, "'x'"):
        fit(values, kind)


TWO = to_arrow_schema({"a": int, "b": str | None})


def test_columns_are_matched_by_name_and_put_in_order():
    table = pa.table({"b": ["x", None], "a": [1, 2]})
    assert conform(table, TWO, where=WHERE) == pa.table({"a": [1, 2], "b": ["x", None]}, schema=TWO)


@pytest.mark.parametrize("form", [pa.table, pa.record_batch])
def test_data_of_the_very_schema_is_taken_without_a_copy(form: Any):
    data = form([pa.array([1]), pa.array(["x"])], schema=TWO)
    conformed = conform(data, TWO, where=WHERE)
    assert conformed.schema == TWO
    before = data.column(0)
    before = before.chunk(0) if isinstance(before, pa.ChunkedArray) else before
    assert conformed["a"].chunk(0).buffers()[1].address == before.buffers()[1].address


def test_a_missing_column_is_null_where_it_may_be():
    assert conform(pa.table({"a": [1]}), TWO, where=WHERE).to_pylist() == [{"a": 1, "b": None}]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table({"b": ["x"]}), "'a' is missing"),
        (pa.table({"a": [1], "c": [1]}), "unknown column 'c'"),
        (pa.table({"a": [1, None]}), "'a' holds a null"),
        (pa.table({"a": pa.nulls(2)}), "'a' holds a null"),
        (pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), "'a' is there twice"),
        (pa.table([pa.array([1, None]), pa.array(["x", "y"])], schema=TWO), "'a' holds a null"),
        (pa.record_batch([pa.array([1, None]), pa.array(["x", "y"])], schema=TWO), "holds a null"),
        (pa.table({}), "'a' is missing"),
    ],
)
def test_a_table_of_other_columns_is_refused(table: pa.Table, words: str):
    with refused(SchemaError, WHERE, words):
        conform(table, TWO, where=WHERE)


# ---- dicts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        ([1, np.int8(2), 3.0], int, [1, 2, 3]),
        ([1, 2.5, np.float32(0.5)], float, [1.0, 2.5, 0.5]),
        (["a", "ä🎈", ""], str, ["a", "ä🎈", ""]),
        ([b"", bytearray(b"a")], bytes, [b"", b"a"]),
        ([True, np.bool_(False)], bool, [True, False]),
        ([None, 5], int | None, [None, 5]),
        ([[1, 2], (), np.array([3])], list[int], [[1, 2], [], [3]]),
        ([Decimal("1.5"), 2], Decimal, [Decimal("1.500000000"), Decimal("2.000000000")]),
        ([timedelta(seconds=1)], timedelta, [timedelta(seconds=1)]),
        (
            [datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))],
            Timestamp,
            [datetime(2026, 1, 1, tzinfo=UTC)],
        ),
    ],
    ids=str,
)
def test_values_become_a_column(values: list[Any], kind: Any, found: list[Any]):
    assert rows(values, kind) == found


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1", int),
        (True, int),
        (1.5, int),
        (np.float32(1.5), int),
        (Decimal("1.5"), int),
        (float("nan"), int),
        (float("inf"), int),
        (2**63, int),
        (-(2**63) - 1, int),
        (1, str),
        ("\ud800", str),
        (b"\xff", str),
        (1, bool),
        ("1.5", float),
        (2**53 + 1, float),
        (1, bytes),
        ("2026-01-01", date),
        (date(2026, 1, 1), Timestamp),
        (1.5, Timestamp),
        (1.5, timedelta),
        ("1s", timedelta),
        (1.5, Decimal),
        (5, list[int]),
        ([1.5], list[int]),
        ([[1.5]], list[list[int]]),
        (["1"], list[int]),
        (300, pa.int8()),
        (-1, pa.uint8()),
        ({"n": 1.5}, pa.struct([("n", pa.int64())])),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_and_never_cut_or_guessed(value: Any, kind: Any):
    with refused(SchemaError, WHERE, "'x'"):
        rows([value], kind)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([{"a": 1}, {"b": "x"}], ("'a' is missing", "event 1")),
        ([{"a": 1}, {"a": None}], ("'a' is null in event 1",)),
        ([{"a": 1, "c": 2}], ("unknown column 'c' in event 0",)),
        ([{"a": 1, 7: 2}], ("unknown column '7' in event 0",)),
        ([{"a": 1}, [("a", 1)]], ("event 1 is a list",)),
        ([{"a": 1}, None], ("event 1 is a NoneType",)),
    ],
)
def test_events_of_other_columns_are_refused_by_their_place(
    events: list[Mapping[str, Any]], words: tuple[str, ...]
):
    with refused(SchemaError, WHERE, *words):
        rows_to_batch(events, TWO, where=WHERE)


def test_a_datetime_without_a_zone_is_refused():
    moment = datetime(2026, 1, 1)  # noqa: DTZ001 - that is the point
    with refused(SchemaError, WHERE, "event 0", "time zone"):
        rows([moment], Timestamp)
    with refused(SchemaError, "time zone", somewhere=False):
        datetime_us(moment)


@pytest.mark.parametrize(
    "microseconds", [0, 1, -1, 2**53 + 1, 253_402_300_799_999_999, -62_135_596_800_000_000]
)
def test_a_moment_is_microseconds_and_back_exactly(microseconds: int):
    assert datetime_us(us_datetime(microseconds)) == microseconds
