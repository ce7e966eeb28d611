"""What each step with state shows of itself; how long keys live; and which keys can be asked for, of which type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.flows.flow import Flow
from millstream.flows.kept import KeptState
from millstream.flows.kept_keys import KeyMisfit, KeyText, is_same, key_values
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schema import TIMESTAMP
from millstream.testing import FlowTest
from millstream.testing.flows_suite import at
from tests.refusals import refused

LEFT = {"k": int, "n": int, "at": ms.Timestamp}
RIGHT = {"k": int, "price": int, "since": ms.Timestamp}
CLICKS = {"user": str, "page": str, "at": ms.Timestamp}


def left(k: int, n: int, minute: float) -> dict[str, Any]:
    return {"k": k, "n": n, "at": at(minute)}


def right(k: int, price: int, minute: float) -> dict[str, Any]:
    return {"k": k, "price": price, "since": at(minute)}


def both(app: ms.App) -> tuple[Flow, Flow]:
    return app.read(app.topic("left", schema=LEFT)), app.read(app.topic("right", schema=RIGHT))


def near(app: ms.App) -> Flow:
    one, other = both(app)
    return one.join_interval(
        other, on="k", within=("0s", "10m"), time=("at", "since"), how="full"
    ).write("out")


def in_windows(app: ms.App) -> Flow:
    one, other = both(app)
    joined = one.join_window(other, ms.tumbling("1h"), on="k", time=("at", "since"), how="left")
    return joined.write("out")


def as_of(app: ms.App) -> Flow:
    one, other = both(app)
    return one.join_asof(other, on="at", right_on="since", by="k").write("out")


def counted(app: ms.App) -> Flow:
    clicks = app.read(app.topic("clicks", schema=CLICKS))
    windowed = clicks.window(ms.count_window(3), on="at")
    return windowed.group_by("user").agg(n=ms.count(), pages=ms.n_unique("page")).write("out")


def counted_by_hour(app: ms.App) -> Flow:
    clicks = app.read(app.topic("clicks", schema=CLICKS))
    windowed = clicks.window(ms.count_window(3), on="at")
    return windowed.group_by(hour=ms.col("at").dt.hour()).agg(n=ms.count()).write("out")


def click(user: str, page: str, minute: float) -> dict[str, Any]:
    return {"user": user, "page": page, "at": at(minute)}


def told(state: KeptState, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in columns) for row in state.rows]


# ---- what each step shows ------------------------------------------------------------------------------


@pytest.mark.parametrize("flow_of", [near, in_windows])
def test_both_sides_of_a_join_are_shown(tmp_path: Path, flow_of: Callable[[ms.App], Flow]) -> None:
    with FlowTest(flow_of, tmp_path) as test:
        test.feed("left", [left(1, 10, 0), left(2, 20, 1)])
        test.feed("right", [right(2, 7, 2), right(3, 8, 3), right(3, 9, 4)])
        lefts, rights = test.flow.state()
        assert (lefts.step, lefts.holds) == (0, "rows of the left side")
        assert (rights.step, rights.holds) == (0, "rows of the right side")
        assert lefts.name == rights.name == ("join_interval" if flow_of is near else "join_window")
        assert told(lefts, "k", "n", "at") == [(1, 10, at(0)), (2, 20, at(1))]
        assert told(rights, "k", "price", "since") == [
            (2, 7, at(2)), (3, 8, at(3)), (3, 9, at(4)),
        ]  # fmt: skip
        assert lefts.closed_until == rights.closed_until == at(1)
        assert lefts.stored_bytes > 0 < rights.stored_bytes
        # A key is asked of both sides, and may be on one of them.
        lefts, rights = test.flow.state(step=0, key=3)
        assert (lefts.rows_total, told(rights, "price")) == (0, [(8,), (9,)])
        test.feed("left", [left(9, 90, 200)])
        test.feed("right", [right(9, 90, 200)])
        # What no partner can come for any more is gone.
        lefts, rights = test.flow.state()
        assert (told(lefts, "k"), told(rights, "k")) == ([(9,)], [(9,)])


def test_rows_that_wait_and_versions_are_shown(tmp_path: Path) -> None:
    with FlowTest(as_of, tmp_path) as test:
        test.feed("right", [right(1, 5, 0), right(2, 6, 0), right(1, 7, 3)])
        test.feed("left", [left(1, 10, 1), left(1, 11, 3), left(2, 12, 4)])
        waiting, versions = test.flow.state()
        assert [(state.step, state.holds) for state in (waiting, versions)] == [
            (0, "rows that wait"), (0, "versions"),
        ]  # fmt: skip
        # Prices are known up to minute 3: what happened before that has its price.
        assert told(waiting, "k", "n") == [(1, 11), (2, 12)]
        # Of key 1 the price of minute 0 still holds for rows just before minute 3, of which none can come.
        assert waiting.closed_until == versions.closed_until == at(3)
        assert sorted(told(versions, "k", "price")) == [(1, 5), (1, 7), (2, 6)]
        waiting, versions = test.flow.state(key=2)
        assert (told(waiting, "n"), told(versions, "price")) == ([(12,)], [(6,)])


def test_count_windows_are_shown(tmp_path: Path) -> None:
    with FlowTest(counted, tmp_path) as test:
        test.feed("clicks", [click("ann", "/", 0), click("ann", "/", 1), click("bob", "/", 2)])
        test.feed("clicks", [click("ann", "/a", 3)])
        waiting, windows = test.flow.state()
        assert [(state.step, state.holds) for state in (waiting, windows)] == [
            (1, "rows that wait"), (1, "count windows"),
        ]  # fmt: skip
        assert told(waiting, "user", "page") == [("ann", "/a")]
        assert sorted(told(windows, "user", "n", "pages")) == [("ann", 2, 1), ("bob", 1, 1)]
        assert told(windows, "window_start", "window_end")[0][0] == at(0)
        # Its third row makes the window full, and it is gone.
        test.feed("clicks", [click("bob", "/", 4)])
        waiting, windows = test.flow.state(key="bob")
        assert (told(waiting, "at"), told(windows, "n")) == ([(at(4),)], [(1,)])
        waiting, windows = test.flow.state()
        assert told(windows, "user") == [("bob",)]


def test_rows_that_wait_have_no_key_that_is_computed(tmp_path: Path) -> None:
    with FlowTest(counted_by_hour, tmp_path) as test:
        test.feed("clicks", [click("ann", "/", 0), click("ann", "/", 90)])
        waiting, windows = test.flow.state(key=at(0).hour)
        assert (waiting.rows_total, told(windows, "hour", "n")) == (0, [(at(0).hour, 1)])
        assert test.flow.state()[0].rows_total == 1


# ---- time to live --------------------------------------------------------------------------------------


def kept(test: FlowTest) -> dict[Any, datetime | None]:
    [_, keys] = test.flow.state()
    return {row["key"]: row["expires"] for row in keys.rows}


def remembering(
    on_click: Callable[[dict[str, Any], Any], None], *, time: str | None = "at", ttl: str = "30m"
) -> Callable[[ms.App], Flow]:
    def flow_of(app: ms.App) -> Flow:
        clicks = app.read(app.topic("clicks", schema=CLICKS))
        keyed = clicks.key_by("user", time=time, ttl=ttl)
        return keyed.process(
            on_click, {"user": str}, state=int, on_timer=lambda context: None
        ).write("out")

    return flow_of


def nothing(event: dict[str, Any], context: Any) -> None:
    """Remember that the key was there."""


def test_a_key_lives_until_it_is_shown_to_expire(tmp_path: Path) -> None:
    # minute     0    5         30   35   36
    # ann        1              (expires)
    # bob             1               (expires)
    with FlowTest(remembering(nothing), tmp_path) as test:
        test.feed("clicks", [click("ann", "/", 0), click("bob", "/", 5), click("zoe", "/", 5)])
        assert kept(test) == {"ann": at(30)}
        test.feed("clicks", [click("cat", "/", 29.9)])
        assert kept(test) == {"ann": at(30), "bob": at(35), "zoe": at(35)}
        # An event puts it off; the watermark of a row is that of the next one.
        test.feed("clicks", [click("zoe", "/", 30)])
        assert kept(test) == {"bob": at(35), "zoe": at(35), "cat": at(59.9)}
        test.feed("clicks", [click("cat", "/", 36)])
        assert kept(test) == {"zoe": at(60), "cat": at(59.9)}
        test.restart()
        test.feed("clicks", [click("cat", "/", 37)])
        assert kept(test) == {"zoe": at(60), "cat": at(66)}


def test_timers_put_the_end_of_a_key_off(tmp_path: Path) -> None:
    def remind(event: dict[str, Any], context: Any) -> None:
        context.set_timer(context.time + timedelta(hours=1), "end")

    with FlowTest(remembering(remind), tmp_path) as test:
        test.feed("clicks", [click("ann", "/", 0), click("bob", "/", 45)])
        assert kept(test) == {"ann": at(90)}
        test.feed("clicks", [click("bob", "/", 89)])
        # The timer was called at minute 60, and the key lives on from there.
        assert kept(test) == {"ann": at(90), "bob": at(135)}
        test.feed("clicks", [click("bob", "/", 90), click("bob", "/", 91)])
        assert [*kept(test)] == ["bob"]


def test_a_timer_of_the_clock_keeps_a_key_for_nobody_knows_how_long(tmp_path: Path) -> None:
    def remind(event: dict[str, Any], context: Any) -> None:
        context.set_clock_timer("1h")

    with FlowTest(remembering(remind), tmp_path / "events") as test:
        test.feed("clicks", [click("ann", "/", 0), click("bob", "/", 5)])
        assert kept(test) == {"ann": None}
    with FlowTest(remembering(remind, time=None), tmp_path / "clock") as test:
        test.feed("clicks", [click("ann", "/", 0)])
        [_, keys] = test.flow.state()
        [row] = keys.rows
        assert row["expires"] == row["timers"][""] + timedelta(minutes=30)


def test_keys_that_live_for_ever_have_no_end(tmp_path: Path) -> None:
    def flow_of(app: ms.App) -> Flow:
        keyed = app.read(app.topic("clicks", schema=CLICKS)).key_by("user", time="at")
        return keyed.process(nothing, {"user": str}, state=int).write("out")

    with FlowTest(flow_of, tmp_path / "none") as test:
        test.feed("clicks", [click("ann", "/", 0), click("bob", "/", 5)])
        assert [*test.flow.state()[1].rows[0]] == ["key", "state", "timers"]
    with FlowTest(remembering(nothing, ttl="3000000d"), tmp_path / "long") as test:
        test.feed("clicks", [click("ann", "/", 0), click("bob", "/", 5)])
        # Beyond the year 9999 there are no dates.
        assert kept(test) == {"ann": None}


# ---- which keys can be asked for -----------------------------------------------------------------------

DAY, NOON = date(2026, 1, 31), datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "value", "text", "others", "no_texts"),
    [
        (pa.int64(), 7, "7", ["7", 7.0, True], ["ann", "7.5", ""]),
        (pa.float64(), 0.5, "0.5", ["0.5", True], ["half"]),
        (pa.string(), "7", "7", [7, b"7"], []),
        (pa.bool_(), True, "TRUE", [1, "true"], ["1", "yes"]),
        (pa.binary(), b"\0\1", "AAE=", ["AAE="], ["AAE", "é"]),
        (pa.date32(), DAY, "2026-01-31", [NOON, "2026-01-31"], ["31.1.2026"]),
        (
            TIMESTAMP, NOON, "2026-01-31T13:00:00+01:00",
            [NOON.replace(tzinfo=None), DAY], ["2026-01-31 12:00:00", "noon"],
        ),
    ],
)  # fmt: skip
def test_a_key_is_of_its_own_type(
    kind: pa.DataType, value: Any, text: str, others: list[Any], no_texts: list[str]
) -> None:
    column = pa.schema([pa.field("key", kind)])
    assert key_values(value, column) == (value,)
    assert key_values((value,), column) == (value,)
    assert key_values((None,), column) == (None,)
    assert key_values(KeyText(text), column) == (value,)
    for other in [*others, (value, value), KeyText]:
        with pytest.raises(KeyMisfit, match="key"):
            key_values(other, column)
    for no_text in no_texts:
        with pytest.raises(KeyMisfit, match=f"key is {re.escape(str(kind))}, and '.*' is none"):
            key_values(KeyText(no_text), column)


def test_several_columns_are_told_as_in_csv() -> None:
    columns = pa.schema([pa.field("user", pa.string()), pa.field("n", pa.int64())])
    assert key_values(KeyText('"a,b",7'), columns) == ("a,b", 7)
    assert key_values(KeyText("ann,7"), columns) == ("ann", 7)
    assert key_values(KeyText("2026-01-31 12:00:00 UTC"), pa.schema([("at", TIMESTAMP)])) == (NOON,)
    for text in ("ann", "", "a,b,7"):
        with pytest.raises(KeyMisfit, match="the key has the columns user, n, and"):
            key_values(KeyText(text), columns)
    other = pa.schema([pa.field("span", pa.duration("us"))])
    assert key_values(timedelta(1), other) == (timedelta(1),)
    with pytest.raises(KeyMisfit, match="which no text names"):
        key_values(KeyText("1d"), other)
    # One text column takes the whole text, whatever is in it.
    assert key_values(KeyText('a,"b"'), pa.schema([("user", pa.string())])) == ('a,"b"',)


def test_a_nan_is_a_key() -> None:
    nan = float("nan")
    assert is_same(nan, float("nan"))
    assert not is_same(nan, 1.0)
    assert not is_same(1.0, nan)
    assert not is_same(None, nan)
    assert key_values(KeyText("1"), pa.schema([("x", pa.float64())])) == (1.0,)


@pytest.fixture
def mixed(tmp_path: Path) -> Iterator[FlowTest]:
    """A flow whose join has an integer as its key, and whose windows have a text."""

    def flow_of(app: ms.App) -> Flow:
        one, other = both(app)
        joined = one.join_interval(other, on="k", within=("0s", "1h"), time=("at", "since"))
        named = joined.with_columns(name=ms.col("k").cast(str))
        return (
            named.window(ms.tumbling("1h"), on="at").group_by("name").agg(n=ms.count()).write("out")
        )

    with FlowTest(flow_of, tmp_path) as test:
        test.feed("left", [left(7, 1, 0), left(8, 2, 1)])
        test.feed("right", [right(7, 1, 5), right(8, 2, 6)])
        yield test


def test_a_number_is_no_text(mixed: FlowTest) -> None:
    assert [state.rows_total for state in mixed.flow.state()] == [2, 2, 2]
    assert [state.rows_total for state in mixed.flow.state(key=7)] == [1, 1, 0]
    assert [state.rows_total for state in mixed.flow.state(key="7")] == [0, 0, 1]
    # A command line cannot tell them apart: it asks for each as what it is there.
    assert [state.rows_total for state in mixed.flow.state(key=KeyText("7"))] == [1, 1, 1]


def test_a_key_that_is_none_is_refused(mixed: FlowTest) -> None:
    with refused(ConfigurationError, "no key is 7.0: k is int64, and 7.0 is none", "(k: int64)"):
        mixed.flow.state(key=7.0)
    with refused(ConfigurationError, "no key is 'seven'", "k is int64", "for example 7"):
        mixed.flow.state(step=0, key=KeyText("seven"))
    with refused(ConfigurationError, "nothing is kept of the key 'seven'"):
        mixed.flow.state(key="seven")
    with refused(ConfigurationError, "the key has the columns k, and 2 given"):
        mixed.flow.state(key=(7, 8))
