"""Nexmark: public queries with published answers, as flows, fed in any order, cut anywhere and crashed.

Queries that join two streams are in ``test_nexmark_joins.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.testing.flows_suite import LocalWorld
from tests.flows_kit import crash_each
from tests.nexmark import BID, DAY, LATE, NEEDS_DATA, Row, answer, rows_of, shown, told

pytestmark = NEEDS_DATA


DOLLAR = 0.908
CHANNELS = {"apple": "0", "google": "1", "facebook": "2", "baidu": "3"}
RANKS = {1: (0, 10_000), 2: (10_000, 1_000_000), 3: (1_000_000, 2**62)}


def q0(bids: Flow) -> Flow:
    return bids.select("auction", "bidder", "price", "date_time")


def q1(bids: Flow) -> Flow:
    return bids.select("auction", "bidder", "date_time", price=ms.col("price") * DOLLAR).select(
        "auction", "bidder", "price", "date_time"
    )


def q2(bids: Flow) -> Flow:
    auction = ms.col("auction")
    asked = [auction == number for number in (1007, 1020, 2001, 2019, 2087)]
    return bids.filter(asked[0] | asked[1] | asked[2] | asked[3] | asked[4]).select(
        "auction", "price"
    )


def leading(key: Callable[[Any], Any], rows: list[Any]) -> list[Any]:
    """Return the rows with the greatest key."""
    greatest = max(map(key, rows))
    return [row for row in rows if key(row) == greatest]


def leaders(name: str, key: Callable[[Any], Any]) -> Callable[[str], ms.Aggregate]:
    """Return an aggregate of JSON texts or numbers: those with the greatest key, as JSON."""
    return ms.aggregator(
        init=list,
        add=lambda best, row: leading(
            key, [*best, json.loads(row) if isinstance(row, str) else row]
        ),
        merge=lambda one, other: leading(key, [*one, *other]) if one or other else [],
        finish=lambda best: json.dumps(sorted(best)),
        returns=str,
        name=name,
    )


CODE = 1_000_000
"""A count and the number of an auction as one number: count * CODE + auction."""
most_bids = leaders("most_bids", lambda code: code // CODE)
highest_price = leaders("highest_price", lambda row: row[0])


def q5(bids: Flow) -> Flow:
    """The auctions with the most bids in each window of 10 seconds, a new one every 2."""
    counted = bids.window(ms.hopping("10s", every="2s"), on="date_time", late=LATE).group_by(
        "auction"
    )
    coded = counted.agg(num=ms.count()).select(
        at=ms.col("window_start"), code=ms.col("num") * CODE + ms.col("auction")
    )
    # Windows of 2 seconds hold the windows that begin with them, and no others.
    best = coded.window(ms.tumbling("2s"), on="at").agg(best=most_bids("code"))
    return best.flat_map(
        lambda row: [
            {"auction": code % CODE, "num": code // CODE} for code in json.loads(row["best"])
        ],
        {"auction": int, "num": int},
    )


def q7(bids: Flow) -> Flow:
    """The highest bids of each 10 seconds."""
    rows = {"date_time": ms.Timestamp, "row": str}
    named = bids.select(
        "date_time", "auction", "price", "bidder", told=ms.col("date_time")
    ).flat_map(
        lambda b: [
            {
                "date_time": b["date_time"],
                "row": json.dumps([b["price"], b["auction"], b["bidder"], shown(b["told"])]),
            }
        ],
        rows,
    )
    best = named.window(ms.tumbling("10s"), on="date_time", late=LATE).agg(
        best=highest_price("row")
    )
    return best.flat_map(
        lambda row: [
            {"auction": auction, "price": price, "bidder": bidder, "at": at}
            for price, auction, bidder, at in json.loads(row["best"])
        ],
        {"auction": int, "price": int, "bidder": int, "at": str},
    )


def q14(bids: Flow) -> Flow:
    def told(bid: Row) -> list[Row]:
        price, hour = DOLLAR * bid["price"], bid["date_time"].hour
        if not 1_000_000 < price < 50_000_000:
            return []
        kind = (
            "dayTime"
            if 8 <= hour <= 18
            else "nightTime"
            if hour <= 6 or hour >= 20
            else "otherTime"
        )
        named = {key: bid[key] for key in ("auction", "bidder", "date_time")}
        return [{**named, "price": price, "kind": kind, "c": bid["extra"].count("c")}]

    schema = {
        "auction": int,
        "bidder": int,
        "price": float,
        "kind": str,
        "date_time": ms.Timestamp,
        "c": int,
    }
    return bids.flat_map(told, schema)


def ranked() -> dict[str, ms.Aggregate]:
    """Counts and different bidders and auctions, of all bids and of three ranks of price."""
    price = ms.col("price")
    columns: dict[str, ms.Aggregate] = {"bids": ms.count()}

    def of(name: str, low: int, high: int) -> ms.Expression:
        return ms.when((price >= low) & (price < high)).then(ms.col(name)).otherwise(None)

    for rank, bounds in RANKS.items():
        columns[f"bids_{rank}"] = ms.count(of("price", *bounds))
    for name in ("bidder", "auction"):
        columns[name] = ms.n_unique(name)
        for rank, bounds in RANKS.items():
            columns[f"{name}_{rank}"] = ms.n_unique(of(name, *bounds))
    return columns


def q15(bids: Flow) -> Flow:
    daily = bids.window(DAY, on="date_time", late=LATE).agg(**ranked())
    return daily.select("window_start", *ranked())


def q16(bids: Flow) -> Flow:
    daily = bids.window(DAY, on="date_time", late=LATE).group_by("channel").agg(**ranked())
    return daily.select("channel", "window_start", *ranked())


def q17(bids: Flow) -> Flow:
    counts = {name: kind for name, kind in ranked().items() if name.startswith("bids")}
    daily = bids.window(DAY, on="date_time", late=LATE).group_by("auction")
    figures = {
        "low": ms.min("price"),
        "high": ms.max("price"),
        "mean": ms.mean("price"),
        "all": ms.sum("price"),
    }
    return daily.agg(**counts, **figures).select("auction", "window_start", *counts, *figures)


# Of two bids at one moment the query does not say which is the last: the publisher's answer has the lower one.
last_bid = leaders("last_bid", lambda row: (row[5], -row[2]))


def fields(bid: Row) -> list[Any]:
    """Return a bid as a list, its time as it is shown."""
    return [shown(bid[name]) if name == "date_time" else bid[name] for name in BID]


def q18(bids: Flow) -> Flow:
    """The last bid of each bidder for each auction."""
    keys = {"auction": int, "bidder": int, "date_time": ms.Timestamp}
    named = bids.map(
        lambda b: {**{k: b[k] for k in keys}, "row": json.dumps(fields(b))}, {**keys, "row": str}
    )
    last = named.window(DAY, on="date_time", late=LATE).group_by("auction", "bidder")
    return last.agg(last=last_bid("row")).flat_map(
        lambda group: [dict(zip(BID, row, strict=True)) for row in json.loads(group["last"])],
        {**BID, "date_time": str},
    )


tens = ms.aggregator(
    init=list,
    add=lambda best, row: highest([*best, json.loads(row)]),
    merge=lambda one, other: highest([*one, *other]),
    finish=json.dumps,
    returns=str,
    name="tens",
)


def highest(rows: list[list[Any]]) -> list[list[Any]]:
    return sorted(rows, key=lambda row: -row[2])[:10]


def q19(bids: Flow) -> Flow:
    """The ten highest bids of each auction, with their places."""

    def told(bid: Row) -> Row:
        return {
            "auction": bid["auction"],
            "date_time": bid["date_time"],
            "row": json.dumps(fields(bid)),
        }

    named = bids.map(told, {"auction": int, "date_time": ms.Timestamp, "row": str})
    best = named.window(DAY, on="date_time", late=LATE).group_by("auction").agg(best=tens("row"))

    def rows(group: Row) -> list[Row]:
        places = enumerate(json.loads(group["best"]), 1)
        return [{**dict(zip(BID, row, strict=True)), "place": place} for place, row in places]

    return best.flat_map(rows, {**BID, "date_time": str, "place": int})


def q21(bids: Flow) -> Flow:
    def told(bid: Row) -> list[Row]:
        found = re.search(r"(&|^|\?)channel_id=([^&]*)", bid["url"])
        number = CHANNELS.get(bid["channel"].lower()) or (found[2] if found else None)
        named = {key: bid[key] for key in ("auction", "bidder", "price", "channel")}
        return [] if number is None else [{**named, "number": number}]

    return bids.flat_map(
        told, {"auction": int, "bidder": int, "price": int, "channel": str, "number": str}
    )


def q22(bids: Flow) -> Flow:
    def told(bid: Row) -> Row:
        named = {key: bid[key] for key in ("auction", "bidder", "price", "channel")}
        return {**named, **{f"dir{n}": part for n, part in enumerate(bid["url"].split("/")[3:6])}}

    named = {"auction": int, "bidder": int, "price": int, "channel": str}
    return bids.map(told, {**named, "dir0": str, "dir1": str, "dir2": str})


QUERIES = {
    query.__name__: query for query in (q0, q1, q2, q5, q7, q14, q15, q16, q17, q18, q19, q21, q22)
}


@pytest.mark.parametrize("query", QUERIES)
def test_a_batch_gives_the_published_answer(store_path: Path, query: str) -> None:
    with LocalWorld(store_path) as world:
        world.topic("bids", BID)
        world.append("bids", rows_of("bid", None))
        rows = QUERIES[query](world.read("bids")).collect().to_pylist()
    assert told(query, rows) == answer(query)


@pytest.mark.parametrize(
    ("shuffled", "batch_events", "partitions"), [(False, 50, 1), (True, 7, 1), (True, 1, 3)]
)
@pytest.mark.parametrize("query", QUERIES)
def test_a_stream_gives_it_in_any_order_cut_anywhere_and_crashed(
    store_path: Path,
    seed: int,
    query: str,
    shuffled: bool,
    batch_events: int,
    partitions: int,
) -> None:
    with LocalWorld(store_path) as world:
        world.topic("bids", BID, key="auction", partitions=partitions)
        world.append("bids", rows_of("bid", seed if shuffled else None))

    def stream(world: LocalWorld) -> RunReport:
        flow = QUERIES[query](world.read("bids")).write("out")
        return flow.stream(until="end", batch_events=batch_events)

    crash_each(
        store_path, [("flow.applied", 1), ("flow.committed", 1), ("flow.computed", 1)], stream
    )
    with LocalWorld(store_path) as world:
        report = stream(world)
        assert report.late == 0
        assert told(query, world.events("out")) == answer(query)
