"""Plain Polars: lazy frames over the files, on its streaming engine. Joins stand in the order that the flows have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import polars as pl
from polars import col

from benchmarks.batch.contract import Ask, Rows
from benchmarks.batch.sql import TABLES

Frames = Mapping[str, pl.LazyFrame]

_REVENUE = col("l_extendedprice") * (1 - col("l_discount"))


def _between(name: str, first: date, end: date) -> pl.Expr:
    return col(name).is_between(first, end, closed="left")


def _q1(frames: Frames) -> pl.LazyFrame:
    return (
        frames["lineitem"]
        .filter(col("l_shipdate") <= date(1998, 9, 2))
        .group_by("l_returnflag", "l_linestatus")
        .agg(
            sum_qty=col("l_quantity").sum(),
            sum_base_price=col("l_extendedprice").sum(),
            sum_disc_price=_REVENUE.sum(),
            sum_charge=(_REVENUE * (1 + col("l_tax"))).sum(),
            avg_qty=col("l_quantity").mean(),
            avg_price=col("l_extendedprice").mean(),
            avg_disc=col("l_discount").mean(),
            count_order=pl.len(),
        )
        .sort("l_returnflag", "l_linestatus")
    )


def _q3(frames: Frames) -> pl.LazyFrame:
    customers = frames["customer"].filter(col("c_mktsegment") == "BUILDING")
    orders = (
        frames["orders"]
        .filter(col("o_orderdate") < date(1995, 3, 15))
        .join(customers, left_on="o_custkey", right_on="c_custkey", how="semi")
    )
    return (
        frames["lineitem"]
        .filter(col("l_shipdate") > date(1995, 3, 15))
        .join(orders, left_on="l_orderkey", right_on="o_orderkey")
        .group_by("l_orderkey", "o_orderdate", "o_shippriority")
        .agg(revenue=_REVENUE.sum())
        .select("l_orderkey", "revenue", "o_orderdate", "o_shippriority")
        .sort("revenue", descending=True)
        .head(10)
    )


def _q4(frames: Frames) -> pl.LazyFrame:
    late = frames["lineitem"].filter(col("l_commitdate") < col("l_receiptdate"))
    return (
        frames["orders"]
        .filter(_between("o_orderdate", date(1993, 7, 1), date(1993, 10, 1)))
        .join(late, left_on="o_orderkey", right_on="l_orderkey", how="semi")
        .group_by("o_orderpriority")
        .agg(order_count=pl.len())
        .sort("o_orderpriority")
    )


def _q6(frames: Frames) -> pl.LazyFrame:
    return (
        frames["lineitem"]
        .filter(
            _between("l_shipdate", date(1994, 1, 1), date(1995, 1, 1)),
            col("l_discount").is_between(0.05, 0.07),
            col("l_quantity") < 24,
        )
        .select(revenue=(col("l_extendedprice") * col("l_discount")).sum())
    )


def _q10(frames: Frames) -> pl.LazyFrame:
    orders = frames["orders"].filter(_between("o_orderdate", date(1993, 10, 1), date(1994, 1, 1)))
    first, rest = (
        ("c_custkey", "c_name"),
        ("c_acctbal", "n_name", "c_address", "c_phone", "c_comment"),
    )
    return (
        frames["lineitem"]
        .filter(col("l_returnflag") == "R")
        .join(orders, left_on="l_orderkey", right_on="o_orderkey")
        .join(frames["customer"], left_on="o_custkey", right_on="c_custkey")
        .join(frames["nation"], left_on="c_nationkey", right_on="n_nationkey")
        .rename({"o_custkey": "c_custkey"})
        .group_by(*first, *rest)
        .agg(revenue=_REVENUE.sum())
        .select(*first, "revenue", *rest)
        .sort("revenue", descending=True)
        .head(20)
    )


def _q12(frames: Frames) -> pl.LazyFrame:
    urgent = col("o_orderpriority").is_in(["1-URGENT", "2-HIGH"])
    return (
        frames["lineitem"]
        .filter(
            col("l_shipmode").is_in(["MAIL", "SHIP"]),
            col("l_commitdate") < col("l_receiptdate"),
            col("l_shipdate") < col("l_commitdate"),
            _between("l_receiptdate", date(1994, 1, 1), date(1995, 1, 1)),
        )
        .join(frames["orders"], left_on="l_orderkey", right_on="o_orderkey")
        .group_by("l_shipmode")
        .agg(high_line_count=urgent.sum(), low_line_count=(~urgent).sum())
        .sort("l_shipmode")
    )


_QUERIES: Final[Mapping[str, Callable[[Frames], pl.LazyFrame]]] = {
    "q1": _q1,
    "q3": _q3,
    "q4": _q4,
    "q6": _q6,
    "q10": _q10,
    "q12": _q12,
}


@dataclass(frozen=True, slots=True)
class Polars:
    """Polars."""

    name: str = "polars"

    @contextmanager
    def running(self, tables: Path, directory: Path) -> Iterator[Ask]:
        """Nothing has to be started."""
        del directory

        def ask(query: str) -> Rows:
            frames = {name: pl.scan_parquet(tables / f"{name}.parquet") for name in TABLES}
            return _QUERIES[query](frames).collect(engine="streaming").rows()

        yield ask
