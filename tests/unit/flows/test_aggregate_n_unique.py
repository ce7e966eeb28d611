"""n_unique: exact, nulls are not counted."""

from __future__ import annotations

import math

from millstream.flows.aggregate import n_unique
from tests.unit.flows.kernels import aggregated, floats, texts


def test_it_counts_distinct_values():
    assert aggregated(n_unique("x"), x=texts("a", "b", "a", None)) == 2


def test_nan_is_one_value():
    assert aggregated(n_unique("x"), x=floats(math.nan, math.nan, 0.0, -0.0)) == 2


def test_nothing_is_zero():
    assert aggregated(n_unique("x"), x=texts(None)) == 0
