"""The events of the benchmark of streams, and the loop that says what comes out of them."""

from __future__ import annotations

import socket
from pathlib import Path

import polars as pl
import pytest

from benchmarks.stream.contract import LATE_US, WINDOW_US
from benchmarks.stream.events import INTEGER, KEYS, STEP_US, STRING, events, write_events
from benchmarks.stream.peers.lines import Lines, passed, put
from benchmarks.stream.peers.plain_loop import aggregate

# Two windows and a bit.
EVENTS = 2 * WINDOW_US // STEP_US + 70_000


@pytest.mark.parametrize("keys", [INTEGER, STRING])
def test_the_plain_loop_gives_what_polars_gives(tmp_path: Path, keys: str):
    write_events(tmp_path / "events", EVENTS, keys)
    columns = ["start_us", "key", "hits", "total"]
    found = pl.DataFrame(aggregate(str(tmp_path / "events")), schema=columns, orient="row")
    frame = pl.DataFrame(events(0, EVENTS, keys))
    at = pl.col("at").dt.epoch("us")
    expected = (
        frame.group_by(start_us=at - at % WINDOW_US, key="key")
        .agg(hits=pl.len().cast(pl.Int64), total=pl.col("value").sum())
        .sort("start_us", "key")
    )
    assert found.sort("start_us", "key").equals(expected)
    assert expected["start_us"].n_unique() == 4
    assert expected["key"].n_unique() == KEYS


def test_events_are_out_of_order_and_none_is_late():
    at = pl.DataFrame(events(0, 100_000, INTEGER))["at"].dt.epoch("us")
    behind = at.cum_max() - at
    assert behind.max() is not None
    assert LATE_US // 2 < int(behind.max()) < LATE_US  # type: ignore[arg-type]


def test_events_are_the_same_in_parts():
    whole = events(0, 1_000, STRING)
    assert whole.slice(400).equals(events(400, 600, STRING))


def test_lines_come_whole_in_whatever_pieces_they_arrive():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lines = Lines(theirs)
        ours.sendall(b"1 2\n3 ")
        assert lines.take() == [b"1 2"]
        put(ours, [b"0", b"5 6"])
        ours.close()
        assert lines.take() == [b"3 0", b"5 6"]
        assert lines.take() == []
        assert not lines.is_open


def test_a_line_is_doubled_or_left_out():
    assert passed(b"7 21") == b"7 42"
    assert passed(b"7 0") is None
