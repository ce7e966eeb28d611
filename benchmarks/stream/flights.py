"""A year of departures through the stream of ``millstream demo``: windows by airline and hour, with quantiles."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.drivers import values_of
from benchmarks.harness import OWN, Contender, Figure, Settings, Values, run_rounds
from benchmarks.peers.contract import DISK
from benchmarks.stream.contract import Job
from benchmarks.stream.every import OURS
from benchmarks.stream.own import FILL_FLIGHTS, FLIGHTS, SECONDS

_TARGET_S = 2.0
_TIMEOUT_S = 120.0
_EVENTS_QUICK = 5_000


def flights(settings: Settings) -> list[Figure]:
    """Return how long it takes; the result is compared with that of a batch."""
    events = settings.scaled(0, _EVENTS_QUICK)
    contender = Contender(OWN, partial(_measure, events))
    outcome = run_rounds([contender], settings, title="flights")
    amount = f"the first {events:,}" if events else "all 336,776"
    note = (
        f"{amount} departures of 2013, out of 4 partitions, micro-batches of 2,000; nothing is warm"
    )
    samples = outcome.of(OWN, SECONDS)
    return [
        Figure(
            "the flights through the demo's stream",
            samples,
            "s",
            DISK,
            _TARGET_S,
            "lower",
            notes=(note,),
        )
    ]


def _measure(events: int, place: Path) -> Values:
    job = Job(FILL_FLIGHTS, str(place), events=events)
    values_of(OURS.command(job), timeout_s=_TIMEOUT_S)
    return values_of(OURS.command(replace(job, work=FLIGHTS)), timeout_s=_TIMEOUT_S)
