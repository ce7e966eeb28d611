"""collect and top_k: lists in an order of their own, whatever came first."""

from __future__ import annotations

import math
from typing import Any

import pytest

from millstream.flows.aggregate import arg_max, arg_min, collect, top_k
from millstream.primitives.errors import PlanError
from tests.refusals import refused
from tests.unit.flows.kernels import aggregated, floats, integers, texts


def test_collected_values_are_sorted_and_kept_as_often_as_they_came():
    assert aggregated(collect("x"), x=integers(3, None, 1, 3)) == [1, 3, 3]


def test_collected_values_follow_another_column_and_then_themselves():
    given = {"x": texts("d", "b", "c", "a", None), "o": integers(2, 1, 1, None, 0)}
    assert aggregated(collect("x", by="o"), **given) == ["a", "b", "c", "d"]


def test_nothing_is_an_empty_list():
    assert aggregated(collect("x"), x=texts(None)) == []
    assert aggregated(collect("x", by="o"), x=texts(None), o=integers(1)) == []
    assert aggregated(top_k("x", 2), x=integers(None)) == []


def test_the_greatest_come_first():
    assert aggregated(top_k("x", 2), x=integers(5, 9, None, 7, 9)) == [9, 9]
    assert aggregated(top_k("x", 9), x=integers(5, 9)) == [9, 5]


def test_nan_is_greater_than_every_number():
    greatest, second = aggregated(top_k("x", 2), x=floats(1.0, math.nan, math.inf))
    assert math.isnan(greatest)
    assert second == math.inf


def test_arg_min_and_arg_max_are_first_and_last():
    given = {"x": texts("a", "b", "c"), "o": integers(2, 1, 3)}
    assert aggregated(arg_min("x", by="o"), **given) == "b"
    assert aggregated(arg_max("x", by="o"), **given) == "c"


@pytest.mark.parametrize("k", [0, -1, 2.5, "3", True])
def test_a_number_of_values_that_is_none_is_refused(k: Any):
    with refused(PlanError, f"k={k!r}", "at least 1", somewhere=False):
        top_k("x", k)
