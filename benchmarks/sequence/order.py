"""Events of 10,000 keys put in order: how many in a second of one core, with and without disorder and losses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.drivers import values_of
from benchmarks.harness import OWN, Contender, Figure, Settings, Values, run_rounds
from benchmarks.sequence.contract import LOST, ORDERED, RATE, REPEATED, WALL, Job, command
from benchmarks.sequence.events import KEYS, OVERTAKEN_BY

HEAPS, EVENTS = "a heap a key", "millstream, single events"
CASES: dict[str, tuple[Job, float | None]] = {
    "in order": (Job(), 3e6),
    "5 % disorder": (Job(disorder=0.05), 1e6),
    "5 % disorder, 1 % missing, 1 % twice": (
        Job(disorder=0.05, missing=0.01, repeated=0.01),
        None,
    ),
}
_EVENTS, _EVENTS_QUICK = 4_000_000, 40_000
_EVENTS_PLAIN = 1_000_000
_TIMEOUT_S = 240.0


def order(settings: Settings) -> list[Figure]:
    """Return the rates, beside a heap for each key and our own machine for single events."""
    return [_figure(settings, name) for name in CASES]


def _figure(settings: Settings, name: str) -> Figure:
    job, target = CASES[name]
    whole = settings.scaled(_EVENTS, _EVENTS_QUICK)
    plain = settings.scaled(_EVENTS_PLAIN, _EVENTS_QUICK)
    contenders = [Contender(OWN, partial(_measure, "own", replace(job, events=whole)))]
    for peer, module in ((EVENTS, "own_events"), (HEAPS, "heaps")):
        if settings.wants(peer):
            contenders.append(
                Contender(peer, partial(_measure, module, replace(job, events=plain)))
            )
    outcome = run_rounds(contenders, settings, title=name)
    wall = outcome.of(OWN, WALL).median
    by_clock = "" if wall is None else f"; by the clock {wall / 1e6:.1f} M/s"
    notes = (
        f"{KEYS:,} keys in turn, {whole:,} events ({plain:,} one by one), batches of 100,000; who is out of order is "
        f"overtaken by 1 to {OVERTAKEN_BY} of its key{by_clock}",
    )
    return Figure(
        name, outcome.of(OWN, RATE), RATE, None, target, peers=outcome.peers(RATE), notes=notes
    )


def _measure(module: str, job: Job, _: Path) -> Values:
    values = values_of(command(module, job), timeout_s=_TIMEOUT_S)
    if not (job.missing or job.repeated) and values[ORDERED] != job.events:
        raise RuntimeError(f"{values[ORDERED]:.0f} of {job.events} events came out")
    if job.repeated and not (values[LOST] and values[REPEATED]):
        raise RuntimeError("nothing was lost or came twice")
    return values
