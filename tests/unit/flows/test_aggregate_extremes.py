"""min and max: NaN is the greatest number, nulls are passed over."""

from __future__ import annotations

import math

import pyarrow as pa

from millstream.flows.aggregate import max as greatest
from millstream.flows.aggregate import min as least
from tests.unit.flows.kernels import aggregated, floats, integers, texts


def test_integers():
    assert aggregated(least("x"), x=integers(3, None, -1)) == -1
    assert aggregated(greatest("x"), x=integers(3, None, -1)) == 3


def test_nan_is_the_greatest():
    assert math.isnan(aggregated(greatest("x"), x=floats(1.0, math.nan, math.inf)))
    assert aggregated(least("x"), x=floats(1.0, math.nan)) == 1.0


def test_nan_alone_is_also_the_least():
    assert math.isnan(aggregated(least("x"), x=floats(math.nan, None)))


def test_texts_and_booleans():
    assert aggregated(least("x"), x=texts("b", "B", "a")) == "B"
    assert aggregated(greatest("x"), x=pa.array([False, None, True])) is True


def test_nothing_is_null():
    assert aggregated(greatest("x"), x=texts(None)) is None
