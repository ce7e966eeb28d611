"""Batch and stream of the demo: the same flow, and a comparison that would find the smallest difference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa
import pytest

from millstream.app import App
from millstream.cli.flights.data import departures
from millstream.cli.flights.hourly import first_difference, hourly, run_batch, run_stream
from millstream.cli.flights.reader import Reading, declare, read
from millstream.cli.flights.screen import Screen

EVENTS = 3_000


@pytest.fixture
def app(store_path: Path) -> Iterator[App]:
    with App("flights", store=store_path, durability="process") as app:
        declare(app).append(departures(EVENTS).table)
        yield app


def test_the_stream_equals_the_batch(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    flow, screen = hourly(app, declare(app)), Screen()
    rows, _ = run_batch(app, flow, screen, events=EVENTS)
    assert sum(rows["flights"].to_pylist()) == EVENTS
    assert sum(rows["departed"].to_pylist()) == departures(EVENTS).totals.events - sum(
        departures(EVENTS).table["dep_delay"].is_null().to_pylist()
    )
    assert rows["airline"].null_count == 0
    run_stream(app, flow, screen, batch=rows, events=EVENTS)
    assert f"equals the batch's, row for row: {rows.num_rows} rows" in capsys.readouterr().out


def test_one_other_minute_in_one_row_is_found(app: App) -> None:
    flow, screen = hourly(app, declare(app)), Screen()
    rows, _ = run_batch(app, flow, screen, events=EVENTS)
    at = rows.schema.get_field_index("mean_delay")
    means = rows["mean_delay"].to_pylist()
    means[-1] = (means[-1] or 0.0) + 1e-9
    forged = rows.set_column(at, "mean_delay", pa.array(means, rows.schema.field(at).type))
    with pytest.raises(click.ClickException, match="stream and batch differ: row"):
        run_stream(app, flow, screen, batch=forged, events=EVENTS)


def test_the_order_of_rows_is_no_difference_and_all_else_is() -> None:
    rows = pa.table({"window_start": [2, 1], "carrier": ["b", "a"], "x": [1.5, None]})
    assert first_difference(rows, rows.take([1, 0])) is None
    assert "2 rows and 1" in str(first_difference(rows, rows.slice(1)))
    assert "columns" in str(first_difference(rows, rows.drop(["x"])))
    other = pa.table({"window_start": [2, 1], "carrier": ["b", "a"], "x": [1.5, 0.0]})
    assert str(first_difference(rows, other)).startswith("row 0: ")


@pytest.mark.parametrize("group", ["archive", "dashboard", "audit"])
def test_each_group_counts_what_the_data_holds(
    app: App, group: str, capsys: pytest.CaptureFixture[str]
) -> None:
    totals = departures(EVENTS).totals
    reading = read(declare(app), group, EVENTS)
    assert (reading.events, reading.cancelled, reading.delay_minutes) == (
        totals.events,
        totals.cancelled,
        totals.delay_minutes,
    )
    assert capsys.readouterr().out == "ready\n"
    assert {phase: delay.count for phase, delay in reading.delays.items()} == dict.fromkeys(
        ("source_wait", "start_wait", "process", "publish"), EVENTS
    )
    assert Reading.from_json(reading.to_json()).to_json() == reading.to_json()
