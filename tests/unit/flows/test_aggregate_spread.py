"""var and std: merged as Chan, Golub and LeVeque do, stable far from zero."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from millstream.flows.aggregate import std, var
from millstream.primitives.errors import PlanError
from tests.refusals import refused
from tests.unit.flows.kernels import aggregated, floats, integers


def test_the_sample_variance():
    values = [3, 5, 8, 13]
    assert aggregated(var("x"), x=integers(*values)) == pytest.approx(statistics.variance(values))
    assert aggregated(std("x"), x=integers(*values)) == pytest.approx(statistics.stdev(values))


def test_of_a_population():
    assert aggregated(var("x", ddof=0), x=integers(1, 3)) == 1.0


def test_far_from_zero_it_keeps_its_digits():
    values = [1e9 + v for v in (4.0, 7.0, 13.0, 16.0)]
    assert aggregated(var("x"), x=floats(*values)) == pytest.approx(30.0, rel=1e-9)


def test_too_few_values_are_null():
    assert aggregated(var("x"), x=integers(5)) is None
    assert aggregated(std("x"), x=integers(None)) is None
    assert aggregated(var("x", ddof=0), x=integers(5)) == 0.0


@pytest.mark.parametrize("ddof", [0, 1])
def test_nulls_that_come_before_or_after_change_nothing(ddof: int):
    values = integers(None, None, 3, 5, None, None)
    assert aggregated(var("x", ddof=ddof), x=values) == statistics.pvariance([3, 5]) * 2 / (
        2 - ddof
    )
    assert aggregated(std("x", ddof=ddof), x=integers(None, None)) is None


@pytest.mark.parametrize("ddof", [-1, 1.5, "1", True, None])
def test_what_is_no_number_of_degrees_is_refused(ddof: Any):
    for aggregate in (var, std):
        with refused(PlanError, f"ddof={ddof!r}", somewhere=False):
            aggregate("x", ddof=ddof)
