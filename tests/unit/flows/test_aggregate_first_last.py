"""first and last: by an order, never by arrival."""

from __future__ import annotations

from millstream.flows.aggregate import first, last
from tests.unit.flows.kernels import aggregated, integers, texts


def test_they_follow_the_order():
    columns = {"x": texts("b", "a", "c"), "by": integers(2, 1, 3)}
    assert aggregated(first("x", by="by"), **columns) == "a"
    assert aggregated(last("x", by="by"), **columns) == "c"


def test_equal_orders_are_decided_by_the_value():
    columns = {"x": texts("b", "a", "c"), "by": integers(1, 1, 1)}
    assert aggregated(first("x", by="by"), **columns) == "a"
    assert aggregated(last("x", by="by"), **columns) == "c"


def test_rows_without_an_order_do_not_count():
    assert aggregated(last("x", by="by"), x=texts("a", "z"), by=integers(1, None)) == "a"
    assert aggregated(last("x", by="by"), x=texts("z"), by=integers(None)) is None


def test_a_null_value_is_a_value():
    assert aggregated(last("x", by="by"), x=texts("a", None), by=integers(1, 2)) is None
