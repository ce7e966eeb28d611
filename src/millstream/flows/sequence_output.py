"""What comes out of a sequence: events in order, gaps, late events, duplicates, resets, and what was asked for again.

An event is in exactly one of ``ordered``, ``late`` and ``duplicates``, or rejected, or waits. Times are microseconds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeAlias

Key: TypeAlias = Any
"""A plain value that can be a key of a dict, or a tuple of such."""
Payload: TypeAlias = Any
"""Plain data: what MessagePack can hold."""
Reason: TypeAlias = Literal["timeout", "exhausted", "overflow", "reset", "end"]


class Event(NamedTuple):
    """An event: whose, its number, its time, and what it says.

    Going in, ``time_us`` may be None if the moment of its arrival is said. Coming out, ``seq`` counts on where
    ``modulo`` wraps.
    """

    key: Key
    seq: int
    time_us: int | None
    payload: Payload


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers that are left out: from ``first`` to ``last``, both included."""

    key: Key
    first: int
    last: int
    opened_us: int
    """When a later number came."""
    closed_us: int
    """The deadline, whenever it was noticed, or when something else closed it."""
    reason: Reason
    """``timeout``: its wait is over. ``exhausted``: the same, and it was asked for as often as may be. ``overflow``:
    there was no room. ``reset``: the key began anew. ``end``: the input ended, see ``is_unfinished``.
    """

    @property
    def is_unfinished(self) -> bool:
        """Whether it was cut off by the end of the input: its wait was not over, so nothing says that it is lost."""
        return self.reason == "end"

    @property
    def numbers(self) -> int:
        """How many numbers it has."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Late:
    """An event whose number had been left out, or lies before all that is remembered of its key."""

    event: Event
    lateness_us: int | None
    """How long after its gap was closed; None if there is none."""
    gap: Gap | None
    """None: unknown, before the start."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An event whose number was there before."""

    event: Event
    same: bool | None
    """Whether it says the same; False is a conflict. None: the digests of before cannot be compared."""


@dataclass(frozen=True, slots=True)
class Reset:
    """A key that began anew: two numbers that follow each other, far from what was expected."""

    key: Key
    expected: int
    start: int
    at_us: int


@dataclass(frozen=True, slots=True)
class Request:
    """Numbers that are asked for again: from ``first`` to ``last``, both included."""

    key: Key
    first: int
    last: int
    attempt: int
    at_us: int


@dataclass(slots=True)
class Sequenced:
    """What one call of a sequencer gives. Each key is in order; keys among each other need not be."""

    ordered: list[Event] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    late: list[Late] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    resets: list[Reset] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    taken: int = 0
    """How many events were taken. Fewer than were fed: the source is held back; feed the rest again later."""

    def extend(self, other: Sequenced) -> None:
        """Add what another call gave."""
        for name in ("ordered", "gaps", "late", "duplicates", "resets", "requests"):
            getattr(self, name).extend(getattr(other, name))
        self.taken += other.taken


@dataclass(slots=True)
class Counts:
    """How many events and numbers there have been; ``received`` is the sum of the next four and of ``buffered``."""

    received: int = 0
    ordered: int = 0
    late: int = 0
    duplicates: int = 0
    rejected: int = 0
    buffered: int = 0
    """Events that wait, those on probation included."""
    buffered_bytes: int = 0
    conflicts: int = 0
    """Duplicates that say something else."""
    lost: int = 0
    """Numbers in closed gaps."""
    resets: int = 0
    requests: int = 0
    forgotten: int = 0
    """Keys."""
    gaps: Counter[str] = field(default_factory=Counter)
    """By reason."""

    def dump(self) -> dict[str, Any]:
        """Return plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"gaps": dict(self.gaps)}

    @classmethod
    def load(cls, data: dict[str, Any]) -> Counts:
        """Return what ``dump`` gave."""
        return cls(**{**data, "gaps": Counter(data["gaps"])})
