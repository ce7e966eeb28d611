"""Joins of orders and bills, as flows and in Spark's SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from millstream.flows.flow import Flow
from millstream.flows.windows import tumbling
from millstream.primitives.schema import TIMESTAMP

Row = dict[str, Any]
ORDERS = pa.schema([("k", pa.string()), ("o", pa.int64()), ("at", TIMESTAMP)])
BILLS = pa.schema([("k", pa.string()), ("b", pa.int64()), ("paid", TIMESTAMP)])
HOWS = {
    "inner": "JOIN",
    "left": "LEFT JOIN",
    "right": "RIGHT JOIN",
    "full": "FULL JOIN",
    "semi": "LEFT SEMI JOIN",
    "anti": "LEFT ANTI JOIN",
}


def numbered(
    schema: pa.Schema,
    times: st.SearchStrategy[datetime | None],
    *,
    keys: tuple[str | None, ...] = (None, *"abcd"),
    first: int = 0,
    **size: int,
) -> st.SearchStrategy[pa.Table]:
    key, number, time = schema.names
    rows = st.lists(st.tuples(st.sampled_from(keys), times), **size)
    return rows.filter(lambda rows: len(set(rows)) > 4).map(
        lambda rows: pa.Table.from_pylist(
            [{key: k, number: first + i, time: at} for i, (k, at) in enumerate(rows)], schema=schema
        )
    )


def joined_by_time(how: str) -> str:
    columns = "k, o, unix_micros(at) AS at"
    if how not in ("semi", "anti"):
        columns = "coalesce(l.k, r.k) AS k, o, unix_micros(at) AS at, b, unix_micros(paid) AS paid"
    return (
        f"SELECT {columns} FROM orders l {HOWS[how]} bills r ON l.k = r.k "
        "AND paid >= at - INTERVAL 2 MINUTES AND paid <= at + INTERVAL 5 MINUTES"
    )


def joined_by_window(how: str) -> str:
    columns = "unix_micros(l.w.start) AS s, unix_micros(l.w.end) AS e, k, o, at"
    if how not in ("semi", "anti"):
        columns = (
            "unix_micros(coalesce(l.w.start, r.w.start)) AS s, unix_micros(coalesce(l.w.end, r.w.end)) AS e, "
            "coalesce(l.k, r.k) AS k, o, at, b, paid"
        )
    left = "SELECT k, o, unix_micros(at) AS at, window(at, '4 minutes') AS w FROM orders"
    right = "SELECT k, b, unix_micros(paid) AS paid, window(paid, '4 minutes') AS w FROM bills"
    return f"SELECT {columns} FROM ({left}) l {HOWS[how]} ({right}) r ON l.k = r.k AND l.w = r.w"


def by_time(orders: Flow, bills: Flow, how: str) -> Flow:
    return orders.join_interval(
        bills, on="k", within=("-2m", "5m"), time=("at", "paid"), how=how, late="5m"
    )


def by_window(orders: Flow, bills: Flow, how: str) -> Flow:
    return orders.join_window(
        bills, tumbling("4m"), on="k", time=("at", "paid"), how=how, late="5m"
    )


def rows_of_join(how: str, full: list[Row]) -> list[Row]:
    """Return the rows of a join that are in the full one. What ends the streams is left out."""
    pairs = [row for row in full if row["k"] != "end"]
    if how in ("semi", "anti"):
        kept = [row for row in pairs if row["o"] is not None]
        kept = [row for row in kept if (row["b"] is not None) == (how == "semi")]
        orders = {
            row["o"]: {n: v for n, v in row.items() if n not in ("b", "paid")} for row in kept
        }
        return list(orders.values())
    sides = {"inner": ("o", "b"), "left": ("o",), "right": ("b",), "full": ()}[how]
    return [row for row in pairs if all(row[side] is not None for side in sides)]
