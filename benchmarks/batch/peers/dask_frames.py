"""Dask: dataframes over the files, on two processes of one thread each.

Tuned: only the columns that a query needs, Arrow types instead of Python objects, a million rows a partition. Its
planner pushes no filter into the files of a partition; filters stand first, as its documentation advises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.batch.contract import Ask, Rows
from benchmarks.peers.contract import installed

Read = Callable[..., Any]
"""Reads a table: ``read("orders", "o_orderkey", …)``. All of Dask is untyped to us."""

_ROW_GROUPS = 4


def _revenue(frame: Any) -> Any:
    return frame.assign(revenue=frame.l_extendedprice * (1 - frame.l_discount))


def _q1(read: Read) -> Any:
    items = read(
        *("lineitem", "l_returnflag", "l_linestatus", "l_quantity", "l_extendedprice"),
        *("l_discount", "l_tax", "l_shipdate"),
    )
    items = items[items.l_shipdate <= date(1998, 9, 2)]
    items = items.assign(disc_price=items.l_extendedprice * (1 - items.l_discount))
    items = items.assign(charge=items.disc_price * (1 + items.l_tax))
    return (
        items.groupby(["l_returnflag", "l_linestatus"])
        .agg(
            sum_qty=("l_quantity", "sum"),
            sum_base_price=("l_extendedprice", "sum"),
            sum_disc_price=("disc_price", "sum"),
            sum_charge=("charge", "sum"),
            avg_qty=("l_quantity", "mean"),
            avg_price=("l_extendedprice", "mean"),
            avg_disc=("l_discount", "mean"),
            count_order=("l_quantity", "count"),
        )
        .compute()
        .reset_index()
        .sort_values(["l_returnflag", "l_linestatus"])
    )


def _q3(read: Read) -> Any:
    customers = read("customer", "c_custkey", "c_mktsegment")
    customers = customers[customers.c_mktsegment == "BUILDING"][["c_custkey"]]
    orders = read("orders", "o_orderkey", "o_custkey", "o_orderdate", "o_shippriority")
    orders = orders[orders.o_orderdate < date(1995, 3, 15)]
    items = read("lineitem", "l_orderkey", "l_extendedprice", "l_discount", "l_shipdate")
    items = _revenue(items[items.l_shipdate > date(1995, 3, 15)])[["l_orderkey", "revenue"]]
    wanted = orders.merge(customers, left_on="o_custkey", right_on="c_custkey")
    joined = items.merge(wanted, left_on="l_orderkey", right_on="o_orderkey")
    keys = ["l_orderkey", "o_orderdate", "o_shippriority"]
    found = joined.groupby(keys).revenue.sum().nlargest(10).compute().reset_index()
    return found[["l_orderkey", "revenue", "o_orderdate", "o_shippriority"]]


def _q4(read: Read) -> Any:
    orders = read("orders", "o_orderkey", "o_orderdate", "o_orderpriority")
    orders = orders[
        (orders.o_orderdate >= date(1993, 7, 1)) & (orders.o_orderdate < date(1993, 10, 1))
    ]
    items = read("lineitem", "l_orderkey", "l_commitdate", "l_receiptdate")
    late = items[items.l_commitdate < items.l_receiptdate][["l_orderkey"]]
    found = orders.merge(late, left_on="o_orderkey", right_on="l_orderkey", how="leftsemi")
    counted = found.groupby("o_orderpriority").size().compute()
    return counted.sort_index().reset_index()


def _q6(read: Read) -> Any:
    items = read("lineitem", "l_shipdate", "l_discount", "l_quantity", "l_extendedprice")
    items = items[
        (items.l_shipdate >= date(1994, 1, 1))
        & (items.l_shipdate < date(1995, 1, 1))
        & (items.l_discount >= 0.05)
        & (items.l_discount <= 0.07)
        & (items.l_quantity < 24)
    ]
    return (items.l_extendedprice * items.l_discount).sum().compute()


def _q10(read: Read) -> Any:
    first, rest = (
        ["c_custkey", "c_name"],
        ["c_acctbal", "n_name", "c_address", "c_phone", "c_comment"],
    )
    customers = read(
        *("customer", "c_custkey", "c_name", "c_acctbal", "c_address", "c_phone", "c_comment"),
        "c_nationkey",
    )
    nations = read("nation", "n_nationkey", "n_name")
    orders = read("orders", "o_orderkey", "o_custkey", "o_orderdate")
    orders = orders[
        (orders.o_orderdate >= date(1993, 10, 1)) & (orders.o_orderdate < date(1994, 1, 1))
    ]
    items = read("lineitem", "l_orderkey", "l_extendedprice", "l_discount", "l_returnflag")
    items = _revenue(items[items.l_returnflag == "R"])[["l_orderkey", "revenue"]]
    spent = items.merge(orders, left_on="l_orderkey", right_on="o_orderkey")
    who = customers.merge(nations, left_on="c_nationkey", right_on="n_nationkey")
    joined = spent.merge(who, left_on="o_custkey", right_on="c_custkey")
    found = joined.groupby([*first, *rest]).revenue.sum().nlargest(20).compute().reset_index()
    return found[[*first, "revenue", *rest]]


def _q12(read: Read) -> Any:
    items = read(
        *("lineitem", "l_orderkey", "l_shipmode", "l_shipdate", "l_commitdate", "l_receiptdate")
    )
    items = items[
        items.l_shipmode.isin(["MAIL", "SHIP"])
        & (items.l_commitdate < items.l_receiptdate)
        & (items.l_shipdate < items.l_commitdate)
        & (items.l_receiptdate >= date(1994, 1, 1))
        & (items.l_receiptdate < date(1995, 1, 1))
    ][["l_orderkey", "l_shipmode"]]
    orders = read("orders", "o_orderkey", "o_orderpriority")
    joined = items.merge(orders, left_on="l_orderkey", right_on="o_orderkey")
    high = joined.o_orderpriority.isin(["1-URGENT", "2-HIGH"]).astype("int64")
    joined = joined.assign(high=high, low=1 - high)
    return joined.groupby("l_shipmode")[["high", "low"]].sum().compute().sort_index().reset_index()


_QUERIES: Final[Mapping[str, Callable[[Read], Any]]] = {
    "q1": _q1,
    "q3": _q3,
    "q4": _q4,
    "q6": _q6,
    "q10": _q10,
    "q12": _q12,
}


@dataclass(frozen=True, slots=True)
class Dask:
    """Dask on two processes."""

    name: str = "dask"

    @contextmanager
    def running(self, tables: Path, directory: Path) -> Iterator[Ask]:
        """Start its scheduler and its workers."""
        frames, distributed = installed("dask.dataframe"), installed("distributed")
        cluster = distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            host="127.0.0.1",
            local_directory=str(directory),
        )
        with cluster, distributed.Client(cluster):
            read = partial(_read, frames, tables)

            def ask(query: str) -> Rows:
                found = _QUERIES[query](read)
                if not hasattr(found, "itertuples"):
                    return [(float(found),)]
                return list(found.itertuples(index=False, name=None))

            yield ask


def _read(frames: Any, tables: Path, table: str, *columns: str) -> Any:
    return frames.read_parquet(
        tables / f"{table}.parquet",
        columns=list(columns),
        dtype_backend="pyarrow",
        split_row_groups=_ROW_GROUPS,
    )
