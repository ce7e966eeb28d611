"""The queries of ``sql.py`` as flows, over tables that may hold money as decimals or as floats.

Amounts are cast to floats: flows do no arithmetic with decimals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Final

import millstream as ms
from millstream.flows.expression import Expression

Tables = Mapping[str, ms.Flow]


def _money(name: str) -> Expression:
    return ms.col(name).cast(float)


_REVENUE = _money("l_extendedprice") * (1 - _money("l_discount"))


def _between(name: str, first: date, end: date) -> Expression:
    return (ms.col(name) >= first) & (ms.col(name) < end)


def q1(tables: Tables) -> ms.Flow:
    """Price and quantity of what was shipped, by flag and status."""
    return (
        tables["lineitem"]
        .filter(ms.col("l_shipdate") <= date(1998, 9, 2))
        .group_by("l_returnflag", "l_linestatus")
        .agg(
            sum_qty=ms.sum(_money("l_quantity")),
            sum_base_price=ms.sum(_money("l_extendedprice")),
            sum_disc_price=ms.sum(_REVENUE),
            sum_charge=ms.sum(_REVENUE * (1 + _money("l_tax"))),
            avg_qty=ms.mean(_money("l_quantity")),
            avg_price=ms.mean(_money("l_extendedprice")),
            avg_disc=ms.mean(_money("l_discount")),
            count_order=ms.count(),
        )
        .sort("l_returnflag", "l_linestatus")
    )


def q3(tables: Tables) -> ms.Flow:
    """The ten orders not shipped yet that are worth most."""
    customers = tables["customer"].filter(ms.col("c_mktsegment") == "BUILDING")
    orders = tables["orders"].filter(ms.col("o_orderdate") < date(1995, 3, 15))
    items = tables["lineitem"].filter(ms.col("l_shipdate") > date(1995, 3, 15))
    wanted = orders.join(customers, on="o_custkey", right_on="c_custkey", how="semi")
    return (
        items.join(wanted, on="l_orderkey", right_on="o_orderkey", how="inner")
        .group_by("l_orderkey", "o_orderdate", "o_shippriority")
        .agg(revenue=ms.sum(_REVENUE))
        .select("l_orderkey", "revenue", "o_orderdate", "o_shippriority")
        .top_k(10, by="revenue")
    )


def q4(tables: Tables) -> ms.Flow:
    """Orders of a quarter with an item that came too late, by priority."""
    late = tables["lineitem"].filter(ms.col("l_commitdate") < ms.col("l_receiptdate"))
    return (
        tables["orders"]
        .filter(_between("o_orderdate", date(1993, 7, 1), date(1993, 10, 1)))
        .join(late, on="o_orderkey", right_on="l_orderkey", how="semi")
        .group_by("o_orderpriority")
        .agg(order_count=ms.count())
        .sort("o_orderpriority")
    )


def q6(tables: Tables) -> ms.Flow:
    """What small discounts cost in a year."""
    discount = _money("l_discount")
    return (
        tables["lineitem"]
        .filter(_between("l_shipdate", date(1994, 1, 1), date(1995, 1, 1)))
        .filter((discount >= 0.05) & (discount <= 0.07) & (_money("l_quantity") < 24))
        .agg(revenue=ms.sum(_money("l_extendedprice") * discount))
    )


def q10(tables: Tables) -> ms.Flow:
    """The twenty customers who sent back most in a quarter."""
    orders = tables["orders"].filter(_between("o_orderdate", date(1993, 10, 1), date(1994, 1, 1)))
    customer = ("c_custkey", "c_name", "c_acctbal", "c_phone", "n_name", "c_address", "c_comment")
    return (
        tables["lineitem"]
        .filter(ms.col("l_returnflag") == "R")
        .join(orders, on="l_orderkey", right_on="o_orderkey", how="inner")
        .join(
            tables["customer"].with_columns(c_acctbal=_money("c_acctbal")),
            on="o_custkey",
            right_on="c_custkey",
            how="inner",
        )
        .join(tables["nation"], on="c_nationkey", right_on="n_nationkey", how="inner")
        .group_by(*customer[1:], c_custkey=ms.col("o_custkey"))
        .agg(revenue=ms.sum(_REVENUE))
        .select(
            *("c_custkey", "c_name", "revenue", "c_acctbal", "n_name"),
            *("c_address", "c_phone", "c_comment"),
        )
        .top_k(20, by="revenue")
    )


def q12(tables: Tables) -> ms.Flow:
    """Items that came too late in a year, by how they were sent and how urgent the order was."""
    mode, priority = ms.col("l_shipmode"), ms.col("o_orderpriority")
    urgent = (priority == "1-URGENT") | (priority == "2-HIGH")
    return (
        tables["lineitem"]
        .filter((mode == "MAIL") | (mode == "SHIP"))
        .filter(ms.col("l_commitdate") < ms.col("l_receiptdate"))
        .filter(ms.col("l_shipdate") < ms.col("l_commitdate"))
        .filter(_between("l_receiptdate", date(1994, 1, 1), date(1995, 1, 1)))
        .join(tables["orders"], on="l_orderkey", right_on="o_orderkey", how="inner")
        .group_by("l_shipmode")
        .agg(
            high_line_count=ms.sum(ms.when(urgent).then(1).otherwise(0)),
            low_line_count=ms.sum(ms.when(urgent).then(0).otherwise(1)),
        )
        .sort("l_shipmode")
    )


FLOWS: Final[Mapping[str, Callable[[Tables], ms.Flow]]] = {
    "q1": q1,
    "q3": q3,
    "q4": q4,
    "q6": q6,
    "q10": q10,
    "q12": q12,
}
