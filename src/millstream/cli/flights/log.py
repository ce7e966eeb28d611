"""Part 1: every departure into a topic, while three consumer groups follow, each at its own pace."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import millstream as ms
from millstream.cli.flights.children import child, last_words
from millstream.cli.flights.data import Departures, Totals
from millstream.cli.flights.reader import PACES, PARTITIONS, READY, Reading, declare
from millstream.cli.flights.screen import Advance, Screen, per_second, require, seconds
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.duration import format_duration

APPEND_EVENTS = 1_000
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Logged:
    """How fast the log was written, and what each group measured."""

    throughput: str
    readings: Mapping[str, Reading]


def run_log(app: ms.App, departures: Departures, screen: Screen, *, logs: Path) -> Logged:
    """Append, read and compare. Fails with exit code 1 if a group read something else than the file holds."""
    screen.heading(
        "1  Log: every departure into a topic, in the order in which flights really left"
    )
    topic = declare(app)
    require(
        len(topic) == 0, "a new topic holds events"
    )  # Made here, before three processes want to.
    expected = departures.totals
    totals = dict.fromkeys(("append", *PACES), expected.events)
    with contextlib.ExitStack() as stack, screen.bars(**totals) as bars:
        readers = {
            group: stack.enter_context(_reader(app, group, expected.events, logs))
            for group in PACES
        }
        for group, process in readers.items():
            heard = _line(process)
            require(heard == READY, f"group {group!r} did not start: {_words(logs, group)}")
        duration_s = _append(topic, departures, bars)
        behind = _lag(topic)
        _follow(topic, readers, bars, logs)
        readings = {group: Reading.from_json(_line(process)) for group, process in readers.items()}
    logged = Logged(f"{per_second(expected.events, duration_s)} events/s", readings)
    _tell(screen, departures, duration_s, logged)
    _tell_of_groups(screen, readings, behind)
    for group, reading in readings.items():
        found = Totals(reading.events, reading.cancelled, reading.delay_minutes)
        require(found == expected, f"group {group!r} read {found}, and the file holds {expected}")
    screen.good(
        f"each group, in a process of its own, counted what the file holds: {expected.events:,} departures, "
        f"{expected.cancelled:,} of them cancelled, {expected.delay_minutes:,} minutes of delay"
    )
    return logged


def _reader(
    app: ms.App, group: str, events: int, logs: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    arguments = ["millstream.cli.flights.reader", app.store_path, group, str(events)]
    return child(arguments, log=logs / f"{group}.log")


def _words(logs: Path, group: str) -> str:
    return last_words(logs / f"{group}.log")


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _append(topic: ms.Topic, departures: Departures, bars: dict[str, Advance]) -> float:
    """Append a thousand at a time; return how long it took, every acknowledgement included."""
    begun_s = looked_s = SYSTEM_CLOCK.monotonic_s()
    for first in range(0, departures.totals.events, APPEND_EVENTS):
        topic.append(departures.table.slice(first, APPEND_EVENTS))
        bars["append"](min(first + APPEND_EVENTS, departures.totals.events))
        if SYSTEM_CLOCK.monotonic_s() - looked_s >= _LOOK_EVERY_S:
            _show_groups(topic, bars)
            looked_s = SYSTEM_CLOCK.monotonic_s()
    return SYSTEM_CLOCK.monotonic_s() - begun_s


def _show_groups(topic: ms.Topic, bars: dict[str, Advance]) -> None:
    events = len(topic)
    for group, behind in _lag(topic).items():
        bars[group](max(0, events - behind))


def _lag(topic: ms.Topic) -> dict[str, int]:
    """Return how many events each group is behind."""
    return {group: sum(lag.events for lag in lags) for group, lags in topic.lag().items()}


def _follow(
    topic: ms.Topic, readers: dict[str, subprocess.Popen[str]], bars: dict[str, Advance], logs: Path
) -> None:
    """Show how far each group is until all processes have ended."""
    for group, process in readers.items():
        while process.poll() is None:
            _show_groups(topic, bars)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_EVERY_S)
        require(process.returncode == 0, f"group {group!r} failed: {_words(logs, group)}")
        _show_groups(topic, bars)


def _tell(screen: Screen, departures: Departures, duration_s: float, logged: Logged) -> None:
    totals = departures.totals
    appends = -(-totals.events // APPEND_EVENTS)
    many = f"{appends:,} appends" if appends > 1 else "one append"
    screen.fact(
        "appended",
        f"{totals.events:,} events into {PARTITIONS} partitions by carrier: {many} of up to "
        f"{APPEND_EVENTS:,}, each on disk when it returned, in {seconds(duration_s)}: {logged.throughput}",
    )
    screen.fact(
        "order",
        f"{departures.out_of_order:,} of them ({departures.out_of_order / totals.events:.0%}) come after one that was "
        f"scheduled later, by up to {format_duration(departures.disorder_max_us)}",
    )


def _tell_of_groups(
    screen: Screen, readings: Mapping[str, Reading], behind: Mapping[str, int]
) -> None:
    rows = [
        (
            f"group {group}",
            PACES[group].words,
            f"{behind[group]:,}",
            f"{reading.batches:,}",
            seconds(reading.duration_s),
            per_second(reading.events, reading.duration_s),
        )
        for group, reading in readings.items()
    ]
    columns = ("", "reads", "behind at last append", "batches", "took", "events/s")
    screen.table(columns, rows, texts=2)
