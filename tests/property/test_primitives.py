"""The leaves, for any values."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from millstream.primitives.codec import decode, encode
from millstream.primitives.duration import duration_us
from millstream.primitives.errors import MillstreamError
from millstream.primitives.histogram import Histogram
from millstream.primitives.schema import conform, datetime_us, us_datetime

VALUES = st.lists(st.integers(-(2**40), 2**61), max_size=60)
UNITS = {"us": 1, "ms": 10**3, "s": 10**6, "m": 6 * 10**7, "h": 36 * 10**8, "d": 864 * 10**8}
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def histogram(values: list[int]) -> Histogram:
    made = Histogram()
    made.record_many(np.array(values, dtype=np.int64))
    return made


def facts(one: Histogram) -> tuple[Any, ...]:
    return one.count, one.skewed, one.total_us, one.max_us, list(one.cells())


@given(VALUES, VALUES, VALUES)
def test_histograms_merge_in_any_order(a: list[int], b: list[int], c: list[int]):
    left = histogram(a)
    left.merge(histogram(b))
    left.merge(histogram(c))
    tail = histogram(c)
    tail.merge(histogram(b))
    tail.merge(histogram(a))
    assert facts(left) == facts(tail) == facts(histogram(a + b + c))
    assert facts(Histogram.from_bytes(left.to_bytes())) == facts(left)


@given(st.lists(st.integers(0, 2**61), min_size=1), st.floats(0, 1))
def test_a_quantile_is_never_below_the_exact_one_nor_a_sixteenth_above(values: list[int], q: float):
    ordered = sorted(values)
    below = next(v for i, v in enumerate(ordered, start=1) if i >= q * len(ordered))
    found = histogram(values).quantile(q)
    assert below <= found <= below + below // 16


@given(st.integers(0, 10**6), st.sampled_from(list(UNITS)))
def test_a_whole_duration_is_exact(number: int, unit: str):
    assert duration_us(f"{number}{unit}") == number * UNITS[unit]
    assert duration_us(timedelta(microseconds=number * UNITS[unit])) == number * UNITS[unit]


@given(st.text())
def test_any_text_is_a_duration_or_refused(text: str):
    with suppress(MillstreamError):
        assert duration_us(text) >= 0


@given(PLAIN)
def test_plain_values_come_back(value: Any):
    assert decode(encode(value)) == value


@given(st.binary())
def test_any_bytes_are_a_value_or_refused(data: bytes):
    with suppress(MillstreamError):
        decode(data)


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_a_moment_is_exact(microseconds: int):
    assert datetime_us(us_datetime(microseconds)) == microseconds


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)), st.booleans())
def test_a_conformed_column_has_the_same_values_or_is_refused(
    values: list[int | None], nullable: bool
):
    schema = pa.schema([pa.field("x", pa.int16(), nullable=nullable)])
    fits = all(v is None or -(2**15) <= v < 2**15 for v in values) and (
        nullable or None not in values
    )
    try:
        found = conform(pa.table({"x": pa.array(values, pa.int64())}), schema, where="here")
    except MillstreamError:
        assert not fits
    else:
        assert fits
        assert found.column("x").to_pylist() == values
