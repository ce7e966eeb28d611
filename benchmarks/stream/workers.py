"""Two workers that share a stream, over one: count and sum by an integer key in windows of 10 seconds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.drivers import values_of
from benchmarks.harness import OWN, Contender, Figure, Samples, Settings, Values, run_rounds
from benchmarks.peers.contract import PROCESS
from benchmarks.stream.contract import RATE, WINDOWS, Job, Peer
from benchmarks.stream.events import INTEGER, KEYS
from benchmarks.stream.own import FILL
from benchmarks.stream.shared import PARTITIONS

TARGET = 1.8
_COUNTS = (1, 2)
_EVENTS, _EVENTS_QUICK = 72_000_000, 8_000_000
_BATCH_EVENTS, _BATCH_EVENTS_QUICK = 100_000, 10_000
_TIMEOUT_S = 240.0
_SHARED = Peer(OWN, "shared")


def workers(settings: Settings) -> list[Figure]:
    """Return the rate of one worker and of two, and what the second gives, round by round."""
    events = settings.scaled(_EVENTS, _EVENTS_QUICK)
    batch = settings.scaled(_BATCH_EVENTS, _BATCH_EVENTS_QUICK)
    # Who begins changes with the round, so that what warms the machine helps both.
    orders = itertools.cycle((_COUNTS, _COUNTS[::-1]))
    contender = Contender(OWN, partial(_measure, orders, events, batch))
    outcome = run_rounds([contender], settings, title="workers")
    note = (
        f"{KEYS:,} integer keys, windows of 10 s, {PARTITIONS} partitions, {events:,} events in micro-batches of "
        f"{batch:,}; millstream stream --workers N, counted while all workers are at work"
    )
    one, two = (outcome.of(OWN, f"{RATE}/{count}") for count in _COUNTS)
    ratios = Samples(tuple(b / a for a, b in zip(one.values, two.values, strict=True)))
    return [
        Figure("a shared stream, 1 worker", one, RATE, PROCESS, notes=(note,)),
        Figure("a shared stream, 2 workers", two, RATE, PROCESS, notes=(note,)),
        Figure(
            "2 workers over 1, of the same round", ratios, "times", PROCESS, TARGET, notes=(note,)
        ),
    ]


def _measure(orders: Iterator[Sequence[int]], events: int, batch: int, place: Path) -> Values:
    job = Job(FILL, str(place), keys=INTEGER, events=events, batch_events=batch)
    values_of(_SHARED.command(job), timeout_s=_TIMEOUT_S)
    # Who reads the log first finds it as it was just written: that run is not measured.
    _rate(job, "first", 1)
    return {f"{RATE}/{count}": _rate(job, f"of_{count}", count) for count in next(orders)}


def _rate(job: Job, result: str, count: int) -> float:
    streaming = replace(job, work=WINDOWS, result=result, workers=count)
    return values_of(_SHARED.command(streaming), timeout_s=_TIMEOUT_S)[RATE]
