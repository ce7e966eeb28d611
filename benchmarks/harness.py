"""Rounds, samples and figures: how every benchmark measures.

All contenders do a figure's work in turn, each in a fresh directory on one disk, and that round is repeated. What else
happens on the machine then strikes all of them alike. A figure is the median of its rounds; its range is the smallest
and the largest. Python's garbage collector runs as it does for users; it is emptied before each measurement.
"""

from __future__ import annotations

import fnmatch
import gc
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Better: TypeAlias = Literal["higher", "lower"]
Values: TypeAlias = Mapping[str, float]

OWN = "millstream"
ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
_REASON_LENGTH_MAX = 300


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and where to measure."""

    directory: Path
    rounds: int = ROUNDS
    seconds: float = 1.0
    warm_up_s: float = 0.3
    quick: bool = False
    with_peers: bool = True
    against: str = "*"
    """Only the peers whose names fit this pattern."""
    scale: float = 1.0
    """How large the data is, where a benchmark has a measure for it."""

    def scaled(self, full: int, quick: int) -> int:
        """Return a number of events: ``full``, or ``quick`` in a smoke test."""
        return quick if self.quick else full

    def wants(self, peer: str) -> bool:
        """Whether this peer is to be measured."""
        return self.with_peers and fnmatch.fnmatchcase(peer, self.against)


class Unavailable(Exception):
    """This work cannot be done here; the message says why."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who does the work: ``measure`` gets an empty directory and returns named values."""

    name: str
    measure: Callable[[Path], Values]


@dataclass(frozen=True, slots=True)
class Samples:
    """One value a round, or none and the reason."""

    values: tuple[float, ...] = ()
    reason: str | None = None

    @property
    def median(self) -> float | None:
        """The middle value; None if there is none."""
        return statistics.median(self.values) if self.values else None

    @property
    def range(self) -> tuple[float, float] | None:
        """The smallest and the largest value."""
        return (min(self.values), max(self.values)) if self.values else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What all contenders measured, by contender and by the name of the value."""

    names: Sequence[str]
    rounds: Mapping[str, Sequence[Values]]
    reasons: Mapping[str, str]

    def of(self, contender: str, value: str) -> Samples:
        """Return the samples of one value of one contender."""
        if contender in self.reasons:
            return Samples(reason=self.reasons[contender])
        return Samples(tuple(values[value] for values in self.rounds[contender]))

    def peers(self, value: str) -> dict[str, Samples]:
        """Return the samples of everybody but ourselves."""
        return {name: self.of(name, value) for name in self.names if name != OWN}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number beside its target and its peers."""

    name: str
    samples: Samples
    unit: str
    durability: str | None = None
    target: float | None = None
    better: Better = "higher"
    peers: Mapping[str, Samples] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without a target. What could not run is not met."""
        if self.target is None:
            return None
        value = self.samples.median
        if value is None:
            return False
        return value >= self.target if self.better == "higher" else value <= self.target

    def all_notes(self) -> list[str]:
        """Return the notes, and the reason of everybody who has no value."""
        own = [f"{OWN}: {self.samples.reason}"] if self.samples.reason else []
        missing = [f"{name}: {peer.reason}" for name, peer in self.peers.items() if peer.reason]
        return [*self.notes, *own, *missing]


Scenario: TypeAlias = Callable[[Settings], list[Figure]]


def run_rounds(contenders: Sequence[Contender], settings: Settings, *, title: str) -> Outcome:
    """Let all contenders measure in turn, ``settings.rounds`` times.

    Who fails is left out from then on, with the reason; but an error of our own, other than Unavailable, is raised.
    """
    rounds: dict[str, list[Values]] = {}
    reasons: dict[str, str] = {}
    for number in range(settings.rounds):
        first = number % max(1, len(contenders))
        # Who comes first changes, so that nobody is always the one who follows the same other.
        for contender in [*contenders[first:], *contenders[:first]]:
            if contender.name in reasons:
                continue
            progress(f"{title}: round {number + 1} of {settings.rounds}, {contender.name}")
            try:
                values = _measure(contender, settings.directory)
            except Exception as error:
                if contender.name == OWN and not isinstance(error, Unavailable):
                    raise
                reasons[contender.name] = reason_of(error)
                continue
            rounds.setdefault(contender.name, []).append(values)
    progress("")
    return Outcome([contender.name for contender in contenders], rounds, reasons)


def reason_of(error: Exception) -> str:
    """Return why a peer has no value, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, Unavailable):
        text = f"failed with {type(error).__name__}: {text}"
    return text[:_REASON_LENGTH_MAX]


def _measure(contender: Contender, parent: Path) -> Values:
    place = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    try:
        gc.collect()
        return contender.measure(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def rate(step: Callable[[], int], seconds: float, *, warm_up_s: float = 0.0) -> float:
    """Repeat ``step``, which returns how many events it did, and return events per second."""
    if warm_up_s > 0:
        count_during(step, warm_up_s)
    events, elapsed = count_during(step, seconds)
    return events / elapsed


def count_during(step: Callable[[], int], seconds: float) -> tuple[int, float]:
    """Repeat ``step`` for about ``seconds``; return the events and how long they really took."""
    events = 0
    began = time.perf_counter()
    while True:
        events += step()
        elapsed = time.perf_counter() - began
        if elapsed >= seconds:
            return events, elapsed


def progress(text: str) -> None:
    """Show what happens now, on one line, if somebody is looking."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
