"""quantile: exact, interpolated linearly."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millstream.flows.aggregate import median, quantile
from millstream.primitives.errors import PlanError
from tests.unit.flows.kernels import aggregated, floats, integers


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.95, 1.0])
def test_it_is_numpys_linear_quantile(q: float):
    values = [5, 1, 9, 9, 2, -3, 40]
    expected = float(np.quantile(values, q))
    assert aggregated(quantile("x", q), x=integers(*values)) == pytest.approx(expected, rel=1e-15)


def test_nulls_are_passed_over_and_nothing_is_null():
    assert aggregated(median("x"), x=integers(1, None, 2)) == 1.5
    assert aggregated(median("x"), x=integers(None)) is None


def test_nan_is_the_greatest():
    assert math.isnan(aggregated(quantile("x", 1), x=floats(math.nan, 1.0, 2.0)))
    assert aggregated(quantile("x", 0), x=floats(math.nan, 1.0, 2.0)) == 1.0


def test_infinities_do_not_become_nan():
    assert aggregated(median("x"), x=floats(math.inf, math.inf)) == math.inf


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_share_outside_0_to_1_is_refused(q: float):
    with pytest.raises(PlanError, match="does not exist"):
        quantile("x", q)


def test_durations_to_the_microsecond():
    took = pa.array([1, None, 4, 4_000_000], pa.duration("us"))
    assert aggregated(median("x"), x=took) == timedelta(microseconds=4)
    assert aggregated(quantile("x", 0.75), x=took) == timedelta(microseconds=2_000_002)
    assert aggregated(median("x"), x=took.slice(1, 1)) is None


@pytest.mark.parametrize("q", ["0.5", None, True])
def test_a_share_that_is_no_number_is_refused(q: Any):
    with pytest.raises(PlanError, match="does not exist"):
        quantile("x", q)
