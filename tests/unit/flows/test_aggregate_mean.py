"""mean: of exact sums."""

from __future__ import annotations

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
