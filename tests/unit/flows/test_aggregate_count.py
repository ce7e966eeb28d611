"""count: rows, or values that are not null."""

from __future__ import annotations

from millstream.flows.aggregate import count
from tests.unit.flows.kernels import aggregated, integers


def test_it_counts_rows():
    assert aggregated(count(), x=integers(1, None, 3)) == 3


def test_it_counts_values():
    assert aggregated(count("x"), x=integers(1, None, 3)) == 2


def test_nothing_is_zero():
    assert aggregated(count(), x=integers()) == 0
