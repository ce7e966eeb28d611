"""What steps keep, looked at from Python and by ``millstream state``: also beside a process that streams the flow."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.flows.kept import KeptState
from tests.refusals import refused

MODULE = """
from dataclasses import dataclass
from datetime import timedelta
import millstream as ms

app = ms.App("shop", store="shop.mill", durability="process")
clicks = app.topic(
    "clicks", key="user", partitions=2, schema={"user": str, "page": str, "at": ms.Timestamp}
)

@dataclass
class Visit:
    pages: int = 0

def visited(event, context):
    context.state.pages += 1
    context.set_timer(context.time + timedelta(hours=1), "end")

by_page = (
    app.read(clicks).window(ms.tumbling("1h"), on="at").group_by("user", "page")
    .agg(hits=ms.count()).write("by_page")
)
visits = (
    app.read(clicks).filter(ms.col("page") != "x").key_by("user", time="at")
    .process(visited, {"user": str}, state=Visit, on_timer=lambda context: None).write("visits")
)
pairs = app.read(clicks).join_asof(
    app.read(app.topic("prices", schema={"page": str, "eur": int, "since": ms.Timestamp})),
    on="at", right_on="since", by="page",
).write("pairs")
strange = (
    app.read(clicks).with_columns(x=float("nan")).window(ms.tumbling("1h"), on="at")
    .agg(x=ms.max("x")).write("strange")
)
plain = app.read(clicks).filter(ms.col("page") == "/").write("plain")
"""
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def click(user: str, page: str, minute: int) -> dict[str, Any]:
    return {"user": user, "page": page, "at": NOON + timedelta(minutes=minute)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(MODULE)
    return tmp_path


@pytest.fixture
def shop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.syspath_prepend(folder)
    module = importlib.import_module("shop")
    names = vars(module)
    names["clicks"].append([click("ann", "/", 0), click("cat", "/", 1), click("ann", "/a", 2)])
    yield names
    names["app"].close()
    del sys.modules["shop"]


def test_a_null_key_can_be_asked_for(tmp_path: Path) -> None:
    with ms.App("shop", store=tmp_path / "null.mill", durability="process") as app:
        clicks = app.topic("clicks", schema={"user": str | None, "at": ms.Timestamp})
        clicks.append([{"user": user, "at": NOON} for user in (None, "ann", None)])
        window = app.read(clicks).window(ms.tumbling("1h"), on="at").group_by("user")
        flow = window.agg(hits=ms.count()).write("hits")
        flow.stream(until="now")
        [state] = flow.state(key=(None,))
        assert [(row["user"], row["hits"]) for row in state.rows] == [(None, 2)]


class AtCommits:
    """A stop that looks at the flow before each micro-batch, and stops once it has seen rows."""

    def __init__(self, flow: ms.Flow) -> None:
        self._flow = flow
        self.seen: tuple[KeptState, ...] = ()

    def is_set(self) -> bool:
        self.seen = self._flow.state()
        return any(state.rows_total for state in self.seen)


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "millstream", "state", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_open_windows_are_shown_with_their_aggregates(shop: dict[str, Any]) -> None:
    flow = shop["by_page"]
    [before] = flow.state()
    assert (before.rows_total, before.stored_bytes, before.closed_until) == (0, 0, None)
    flow.stream(stop=AtCommits(flow))
    [state] = flow.state()
    assert (state.step, state.name, state.holds) == (1, "agg", "open windows")
    assert state.rows_total == 3
    assert state.stored_bytes > 0
    assert state.closed_until is not None
    assert state.closed_until <= NOON + timedelta(minutes=1)
    rows = sorted((row["user"], row["page"], row["hits"]) for row in state.rows)
    assert rows == [("ann", "/", 1), ("ann", "/a", 1), ("cat", "/", 1)]
    assert {row["window_start"] for row in state.rows} == {NOON}
    [one] = flow.state(key=("ann", "/a"))
    assert [row["page"] for row in one.rows] == ["/a"]
    [limited] = flow.state(rows_max=2)
    assert (limited.rows_total, len(limited.rows)) == (3, 2)
    with refused(ms.errors.ConfigurationError, "rows_max=-1", "0 or more"):
        flow.state(rows_max=-1)


def test_another_process_looks_at_a_flow_that_streams(shop: dict[str, Any]) -> None:
    flow = shop["visits"]
    outputs = []

    class Looking(AtCommits):
        def is_set(self) -> bool:
            stops = super().is_set()
            if stops:
                outputs.append(ran("shop:visits", "--json"))
            return stops

    flow.stream(stop=Looking(flow))
    [done] = outputs
    assert done.returncode == 0, done.stderr
    waiting, keys = json.loads(done.stdout)
    assert (waiting["step"], waiting["holds"], keys["holds"]) == (2, "rows that wait", "keys")
    # The watermark of both partitions together is that of cat's, at 12:01: what lies before it was processed.
    assert sorted((row["user"], row["page"]) for row in waiting["rows"]) == [
        ("ann", "/a"),
        ("cat", "/"),
    ]
    assert keys["rows"] == [
        {"key": "ann", "state": {"pages": 1}, "timers": {"end": "2026-01-01T13:00:00Z"}}
    ]
    assert keys["closed_until"] == "2026-01-01T12:01:00Z"


def test_units_of_a_shared_flow_are_shown_together(shop: dict[str, Any]) -> None:
    flow = shop["visits"]
    flow.stream(shared=True, stop=AtCommits(flow))
    while flow.state(step=2)[0].rows_total + flow.state(step=2)[1].rows_total < 3:
        flow.stream(shared=True, stop=AtCommitsTwice())
    waiting, keys = flow.state()
    # Each unit goes by its own watermark: of ann the first event was processed, of cat none.
    assert sorted(row["user"] for row in waiting.rows) == ["ann", "cat"]
    assert [(row["key"], row["state"].pages) for row in keys.rows] == [("ann", 1)]


class AtCommitsTwice:
    """A stop that lets a stream have two turns."""

    def __init__(self) -> None:
        self._left = 3

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


def test_the_command_shows_tables(shop: dict[str, Any]) -> None:
    shop["by_page"].stream(stop=AtCommits(shop["by_page"]))
    shop["visits"].stream(stop=AtCommits(shop["visits"]))
    shown = ran("shop:by_page", "--key", "ann,/a")
    assert shown.returncode == 0, shown.stderr
    assert "step 1, agg: 1 open windows" in shown.stdout
    assert "cat" not in shown.stdout
    shown = ran("shop:by_page", "--limit", "1")
    assert "3 open windows, the first 1 shown" in shown.stdout
    shown = ran("shop:visits", "--step", "2", "--key", "ann")
    assert "Visit(pages=1)" in shown.stdout
    assert "end 2026-01-01 13:00:00" in shown.stdout


def test_json_has_no_nan(shop: dict[str, Any]) -> None:
    flow = shop["strange"]
    flow.stream(stop=AtCommits(flow))
    shown = ran("shop:strange", "--json")
    [state] = json.loads(shown.stdout, parse_constant=lambda name: pytest.fail(name))
    assert [row["x"] for row in state["rows"]] == [None]


def test_a_join_is_step_0(shop: dict[str, Any]) -> None:
    prices = shop["app"].topic("prices", schema={"page": str, "eur": int, "since": ms.Timestamp})
    prices.append([{"page": "/", "eur": 3, "since": NOON - timedelta(hours=1)}])
    flow = shop["pairs"]
    flow.stream(stop=AtCommits(flow))
    waiting, versions = flow.state(step=0)
    assert (waiting.name, waiting.holds) == ("join_asof", "rows that wait")
    assert sorted(row["user"] for row in waiting.rows) == ["ann", "ann", "cat"]
    assert [row["eur"] for row in versions.rows] == [3]
    assert [state.rows_total for state in flow.state(key="/a")] == [1, 0]


def test_a_flow_without_state_has_none(shop: dict[str, Any]) -> None:
    assert shop["plain"].state() == ()
    assert "No step of this flow keeps rows" in ran("shop:plain").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("shop:by_page", "--step", "7"), "step 7 keeps no rows"),
        (("shop:by_page", "--step", "7"), "one of [1]"),
        (("shop:plain", "--step", "1"), "none of its steps keeps rows"),
        (("shop:by_page", "--key", "ann"), "the key has the columns user, page"),
        (("shop:by_page", "--key", "ann,/b"), "nothing is kept of the key 'ann,/b'"),
        (("shop:rome",), "has no 'rome'"),
        (("shop:by_page", "--limit", "-1"), "-1 is not in the range"),
    ],
)
def test_what_is_not_there_is_refused(
    shop: dict[str, Any], words: tuple[str, ...], says: str
) -> None:
    shop["by_page"].stream(stop=AtCommits(shop["by_page"]))
    done = ran(*words)
    assert done.returncode == 2
    assert says in done.stderr
