"""When a worker counts as dead, and what becomes of the tasks that it held. Pure.

A worker whose process is gone is dead at once; the kernel says so. One that exists but shows no sign of life (stopped,
swapped out, hung) is dead after its lease. Each worker judges the others by its own monotonic clock: it looks at their
counters of beats about once a second, and a counter that has not moved while the *looker* was awake for a whole lease
means death. Wall clocks may jump: they are not asked. Time during which the looker itself was stopped does not count,
since then the other may have been stopped with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from millstream.tasks.limits import RECOVERY_TICK_US, WORKER_DEATHS_MAX
from millstream.tasks.states import TaskEvent

_CREDIT_MAX_US = 2 * RECOVERY_TICK_US


@dataclass(frozen=True, slots=True)
class WorkerSight:
    """What is seen of one worker: its counter of beats and the length of its lease."""

    lease: int
    process: str
    beats: int
    lease_us: int


@dataclass(slots=True)
class _Watched:
    beats: int
    silent_us: int


class LeaseWatch:
    """Remembers how long each worker has been silent. One looker, one thread."""

    def __init__(self) -> None:
        """Start without having seen anyone."""
        self._watched: dict[int, _Watched] = {}
        self._looked_us: int | None = None

    def silent(self, sights: Sequence[WorkerSight], *, monotonic_us: int) -> set[int]:
        """Return the leases that have run out, judged by this look and those before it."""
        passed_us = 0 if self._looked_us is None else monotonic_us - self._looked_us
        credit_us = min(max(passed_us, 0), _CREDIT_MAX_US)
        self._looked_us = monotonic_us
        before = self._watched
        self._watched = {}
        gone: set[int] = set()
        for sight in sights:
            known = before.get(sight.lease)
            if known is None or known.beats != sight.beats:
                known = _Watched(sight.beats, 0)
            else:
                known.silent_us += credit_us
            self._watched[sight.lease] = known
            if known.silent_us >= sight.lease_us:
                gone.add(sight.lease)
        return gone


class Sighting(Enum):
    """What is known of a task in the moment in which its worker died."""

    RAN = auto()
    """It was the one that ran."""
    WAITED = auto()
    """Another of the same worker ran."""
    IDLE = auto()
    """The worker ran nothing: the task was not started, or its end was not committed yet."""
    UNKNOWN = auto()
    """The worker ran several at once, or what it ran was not written down."""


def sighting_of(seq: int, running: int | None) -> Sighting:
    """Return what a worker that ran ``running`` (0 nothing, None not known) says of one of its tasks."""
    if running is None:
        return Sighting.UNKNOWN
    if running == 0:
        return Sighting.IDLE
    return Sighting.RAN if running == seq else Sighting.WAITED


@dataclass(frozen=True, slots=True)
class Orphan:
    """A task whose worker died."""

    seq: int
    deaths: int
    sole: bool
    """The worker held no other."""
    suspected: bool
    """It is claimed alone, because a worker died with it before."""
    acks_late: bool
    sighting: Sighting = Sighting.UNKNOWN


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of an orphan.

    ``charged``: the death is a failed attempt of it. ``suspected``: it is claimed alone from now on.
    """

    event: TaskEvent
    charged: bool
    suspected: bool


def fate_of(orphan: Orphan) -> Fate:
    """Decide about one orphan.

    The one that ran is charged, and no other. Where that is not known, only a task that was held alone is charged; of a
    batch none is, and each is run alone from then on, so that a poison task shows itself the next time. The same holds
    when nothing ran, so that a task whose worker dies of its result has an end too: it is charged once it is suspected.
    """
    if not orphan.acks_late:
        return Fate(TaskEvent.ABANDON, charged=True, suspected=True)
    charged = {
        Sighting.RAN: True,
        Sighting.WAITED: False,
        Sighting.IDLE: orphan.sole and orphan.suspected,
        Sighting.UNKNOWN: orphan.sole,
    }[orphan.sighting]
    suspected = orphan.suspected or orphan.sighting is not Sighting.WAITED
    poison = charged and orphan.deaths + 1 >= WORKER_DEATHS_MAX
    event = TaskEvent.ABANDON if poison else TaskEvent.RECOVER
    return Fate(event, charged=charged, suspected=suspected)
