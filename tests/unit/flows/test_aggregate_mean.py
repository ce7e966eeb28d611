"""mean: of exact sums."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa

from millstream.flows.aggregate import mean
from tests.unit.flows.kernels import aggregated, floats, integers


def test_integers():
    assert aggregated(mean("x"), x=integers(1, None, 2)) == 1.5


def test_it_cannot_overflow():
    assert aggregated(mean("x"), x=integers(*[2**63 - 1] * 3)) == float(2**63 - 1)


def test_nothing_is_null():
    assert aggregated(mean("x"), x=floats(None)) is None


def test_floats():
    assert aggregated(mean("x"), x=floats(0.1, 0.2, 0.3, 0.7)) == 0.325


def test_durations_to_the_microsecond():
    took = pa.array([1, None, 2, 4_000_000], pa.duration("us"))
    assert aggregated(mean("x"), x=took) == timedelta(microseconds=1_333_334)
    assert aggregated(mean("x"), x=took.slice(1, 1)) is None
