"""Nexmark's queries that join two streams: the published answers, shuffled, cut anywhere and crashed.

The data and its answers are described in ``tests/nexmark.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import millstream as ms
from millstream.flows.flow import Flow
from millstream.flows.report import RunReport
from millstream.testing.flows_suite import LocalWorld
from tests.flows_kit import crash_each
from tests.nexmark import BID, DAY, LATE, NEEDS_DATA, answer, rows_of, told

pytestmark = NEEDS_DATA

PERSON = {
    "id": int,
    "name": str,
    "email_address": str,
    "credit_card": str,
    "city": str,
    "state": str,
    "date_time": ms.Timestamp,
    "extra": str,
}
AUCTION = {
    "id": int,
    "item_name": str,
    "description": str,
    "initial_bid": int,
    "reserve": int,
    "date_time": ms.Timestamp,
    "expires": ms.Timestamp,
    "seller": int,
    "category": int,
    "extra": str,
}
TOPICS = {"person": PERSON, "auction": AUCTION, "bid": BID}
EVER = ("-1d", "1d")
"""Queries without a time bound join what is within a day."""


def q3(persons: Flow, auctions: Flow, bids: Flow) -> Flow:
    """Who sells in some states."""
    del bids
    state = ms.col("state")
    there = persons.filter((state == "or") | (state == "id") | (state == "ca"))
    tens = auctions.filter(ms.col("category") == 10).select(
        "seller", auction=ms.col("id"), opened=ms.col("date_time")
    )
    joined = tens.join_interval(
        there, on="seller", right_on="id", within=EVER, time=("opened", "date_time"), late=LATE
    )
    return joined.select("name", "city", "state", "auction")


def q4(persons: Flow, auctions: Flow, bids: Flow) -> Flow:
    """The mean of the winning prices in each category."""
    del persons
    opened = auctions.select("id", "category", "expires", opened=ms.col("date_time"))
    joined = opened.join_interval(
        bids.select("auction", "price", "date_time"),
        on="id",
        right_on="auction",
        within=("0s", "1d"),
        time=("opened", "date_time"),
        late=LATE,
    ).filter(ms.col("date_time") <= ms.col("expires"))
    won = joined.window(DAY, on="opened").group_by("id", "category").agg(final=ms.max("price"))
    daily = won.select("category", "final", at=ms.col("window_start")).window(DAY, on="at")
    return daily.group_by("category").agg(mean=ms.mean("final")).select("category", "mean")


def q8(persons: Flow, auctions: Flow, bids: Flow) -> Flow:
    """Who came and opened an auction in the same ten seconds."""
    del bids
    sellers = auctions.select("seller", opened=ms.col("date_time"))
    joined = persons.join_window(
        sellers,
        ms.tumbling("10s"),
        on="id",
        right_on="seller",
        time=("date_time", "opened"),
        how="semi",
        late=LATE,
    )
    return joined.select("id", "name", "window_start")


def q20(persons: Flow, auctions: Flow, bids: Flow) -> Flow:
    """Bids with their auctions of one category."""
    del persons
    names = {name: name for name in AUCTION if name not in ("date_time", "extra")}
    tens = auctions.filter(ms.col("category") == 10).select(
        **{name: ms.col(name) for name in names},
        opened=ms.col("date_time"),
        auction_extra=ms.col("extra"),
    )
    joined = bids.join_interval(
        tens, on="auction", right_on="id", within=EVER, time=("date_time", "opened"), late=LATE
    )
    after = ("item_name", "description", "initial_bid", "reserve", "opened", "expires")
    return joined.select(*BID, *after, "seller", "category", "auction_extra")


QUERIES: dict[str, Callable[[Flow, Flow, Flow], Flow]] = {
    query.__name__: query for query in (q3, q4, q8, q20)
}


def fill(world: LocalWorld, *, partitions: int, seed: int | None) -> None:
    for name, schema in TOPICS.items():
        key = "auction" if name == "bid" else "id"
        world.topic(name, schema, key=key, partitions=partitions)
        world.append(name, rows_of(name, seed))


def flow_of(world: LocalWorld, query: str) -> Flow:
    return QUERIES[query](*(world.read(name) for name in TOPICS))


def rounded(query: str, lines: list[list[str]]) -> list[list[str]]:
    """Return the answer of the query; its averages with as many digits as ours."""
    return [[a, f"{float(b):.3f}"] for a, b in lines] if query == "q4" else lines


@pytest.mark.parametrize("query", QUERIES)
def test_a_batch_gives_the_published_answer(store_path: Path, query: str) -> None:
    with LocalWorld(store_path) as world:
        fill(world, partitions=1, seed=None)
        rows = flow_of(world, query).collect().to_pylist()
    assert told(query, rows) == rounded(query, answer(query))


@pytest.mark.parametrize(
    ("shuffled", "batch_events", "partitions"), [(False, 50, 1), (True, 7, 1), (True, 1, 2)]
)
@pytest.mark.parametrize("query", QUERIES)
def test_a_stream_gives_it_in_any_order_cut_anywhere_and_crashed(
    store_path: Path, seed: int, query: str, shuffled: bool, batch_events: int, partitions: int
) -> None:
    with LocalWorld(store_path) as world:
        fill(world, partitions=partitions, seed=seed if shuffled else None)

    def stream(world: LocalWorld) -> RunReport:
        flow = flow_of(world, query).write("out")
        return flow.stream(until="end", batch_events=batch_events)

    crash_each(
        store_path, [("flow.applied", 2), ("flow.committed", 1), ("flow.computed", 1)], stream
    )
    with LocalWorld(store_path) as world:
        report = stream(world)
        assert report.late == 0
        assert told(query, world.events("out")) == rounded(query, answer(query))
