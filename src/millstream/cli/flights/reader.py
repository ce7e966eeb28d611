"""A consumer group in a process of its own: ``python -m millstream.cli.flights.reader STORE PACE EVENTS``.

It follows the topic while it is being written, until it has read EVENTS, and prints one line of JSON: what it added up,
and its four delays. Before that it prints ``ready`` when it has joined its group.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow.compute as pc

import millstream as ms
from millstream.cli.flights.data import SCHEMA
from millstream.log.contract import Consumer
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.histogram import PHASES

TOPIC = "departures"
PARTITIONS = 4
READY = "ready"
_PATIENCE_S = 60.0
"""A reader that sees nothing new for so long gives up: whoever wrote the topic is gone."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a group reads."""

    batch_events: int
    add: Callable[[Reading, ms.EventBatch], None]
    words: str


@dataclass(slots=True)
class Reading:
    """What a group has added up, and how long its events waited."""

    events: int = 0
    cancelled: int = 0
    delay_minutes: int = 0
    batches: int = 0
    duration_s: float = 0.0
    delays: dict[str, ms.Histogram] = field(
        default_factory=lambda: {phase: ms.Histogram() for phase in PHASES}
    )

    def to_json(self) -> str:
        """Return one line that ``from_json`` reads."""
        delays = {
            phase: base64.b64encode(histogram.to_bytes()).decode()
            for phase, histogram in self.delays.items()
        }
        return json.dumps({**asdict(self), "delays": delays})

    @classmethod
    def from_json(cls, line: str) -> Reading:
        """Return what another process has added up."""
        values = json.loads(line)
        delays = {
            phase: ms.Histogram.from_bytes(base64.b64decode(text))
            for phase, text in values.pop("delays").items()
        }
        return cls(**values, delays=delays)


def add_columns(reading: Reading, batch: ms.EventBatch) -> None:
    """Add up whole columns, without a Python object for any event."""
    delays = batch.table.column("dep_delay")
    reading.events += batch.num_rows
    reading.cancelled += delays.null_count
    reading.delay_minutes += pc.sum(delays).as_py() or 0


def add_events(reading: Reading, batch: ms.EventBatch) -> None:
    """Add up event by event, each as a dict."""
    for event in batch.to_pylist():
        reading.events += 1
        if event["dep_delay"] is None:
            reading.cancelled += 1
        else:
            reading.delay_minutes += event["dep_delay"]


PACES = {
    "archive": Pace(1_000_000, add_columns, "whole columns, all there is"),
    "dashboard": Pace(1_000, add_columns, "columns, 1,000 at a time"),
    "audit": Pace(5_000, add_events, "event by event, as dicts"),
}
"""The consumer groups by name."""


def declare(app: ms.App) -> ms.Topic:
    """Return the topic of the departures. A carrier keeps its partition, so its departures keep their order."""
    return app.topic(TOPIC, key="carrier", partitions=PARTITIONS, schema=SCHEMA)


def read(topic: ms.Topic, group: str, expected: int) -> Reading:
    """Follow the topic as a group until ``expected`` events are read; each batch is committed after it was added."""
    reading, pace = Reading(), PACES[group]
    with topic.consume(group, auto_commit=False, batch_events=pace.batch_events) as consumer:
        batch = consumer.poll(0)  # Joins the group, so that the writer may begin.
        print(READY, flush=True)
        begun_s: float | None = None
        while reading.events < expected:
            batch = batch or consumer.poll(_PATIENCE_S)
            if batch is None:
                break
            received_s = SYSTEM_CLOCK.monotonic_s()
            begun_s = received_s if begun_s is None else begun_s
            _take(reading, batch, consumer, pace)
            reading.duration_s = SYSTEM_CLOCK.monotonic_s() - begun_s
            batch = None
    return reading


def _take(reading: Reading, batch: ms.EventBatch, consumer: Consumer, pace: Pace) -> None:
    """Add a batch up, commit that it was read, and record its delays."""
    clock = SYSTEM_CLOCK
    received_s, received_us = clock.monotonic_s(), clock.now_us()
    pace.add(reading, batch)
    added_s = clock.monotonic_s()
    consumer.commit()
    committed_s = clock.monotonic_s()
    reading.batches += 1
    _record(reading, batch, received_us, added_s - received_s, committed_s - added_s)


def _record(
    reading: Reading, batch: ms.EventBatch, received_us: int, process_s: float, publish_s: float
) -> None:
    appended_us = batch.appended_us()
    left_us = batch.table.column("left").cast("int64").to_numpy().astype(np.int64)
    reading.delays["source_wait"].record_many(appended_us - left_us)
    reading.delays["start_wait"].record_many(received_us - appended_us)
    reading.delays["process"].record(round(process_s * 1e6), batch.num_rows)
    reading.delays["publish"].record(round(publish_s * 1e6), batch.num_rows)


def main(store: str, group: str, expected: str) -> int:
    """Read, print, and return the exit code."""
    with ms.App("flights", store=store) as app:
        reading = read(declare(app), group, int(expected))
    print(reading.to_json(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
