"""A sequencer in tests: times are in seconds, and ``S`` of them make the microseconds of its clock."""

from __future__ import annotations

from typing import Any

import millstream as ms
from millstream.flows.sequence_output import Event, Sequenced

S = 1_000_000


def sequencer(**options: Any) -> ms.Sequencer:
    return ms.Sequencer(ms.SequenceOptions(**{"start": 1, **options}))


def feed(machine: ms.Sequencer, *numbers: int, at: float = 0, key: Any = "k") -> Sequenced:
    """Numbers that all come at one moment."""
    return machine.feed([(key, n, round(at * S), b"%d" % n) for n in numbers])


def ordered(out: Sequenced) -> list[int]:
    return [event.seq for event in out.ordered]


def event(n: int, at: float = 0, payload: Any = None) -> Event:
    return Event("k", n, round(at * S), b"%d" % n if payload is None else payload)
