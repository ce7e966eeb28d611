"""Who counts as dead, and what becomes of the tasks."""

from __future__ import annotations

from millstream.tasks.lease import Fate, LeaseWatch, Orphan, WorkerSight, fate_of
from millstream.tasks.limits import RECOVERY_TICK_US, WORKER_DEATHS_MAX
from millstream.tasks.states import TaskEvent

LEASE_US = 5 * RECOVERY_TICK_US


def look(watch: LeaseWatch, beats: int, at_us: int) -> bool:
    sight = WorkerSight(lease=1, process="p", beats=beats, lease_us=LEASE_US)
    return watch.silent([sight], monotonic_us=at_us) == {1}


def test_silence_for_a_lease_is_death() -> None:
    #  look   0    1    2    3    4    5 s
    #  beats  0    0    0    0    0    0
    #                                  └ 5 s of silence: the lease is over
    watch = LeaseWatch()
    assert [look(watch, 0, n * RECOVERY_TICK_US) for n in range(6)] == [False] * 5 + [True]


def test_a_beat_starts_the_lease_anew() -> None:
    watch = LeaseWatch()
    seen = [look(watch, n // 4, n * RECOVERY_TICK_US) for n in range(40)]
    assert not any(seen)


def test_time_in_which_the_looker_slept_counts_little() -> None:
    # The looker was stopped for an hour; the other may have been stopped with it.
    watch = LeaseWatch()
    assert not look(watch, 0, 0)
    assert not look(watch, 0, 3_600_000_000)
    assert not look(watch, 0, 3_600_000_000 + RECOVERY_TICK_US)


def test_a_clock_that_goes_back_counts_nothing() -> None:
    watch = LeaseWatch()
    assert not look(watch, 0, 10 * LEASE_US)
    assert not look(watch, 0, 0)


def test_those_who_left_are_forgotten() -> None:
    watch = LeaseWatch()
    look(watch, 0, 0)
    assert watch.silent([], monotonic_us=LEASE_US) == set()
    assert not look(watch, 0, 2 * LEASE_US)


def test_fates() -> None:
    def fate(*, deaths: int = 0, alone: bool = True, acks_late: bool = True) -> Fate:
        return fate_of(Orphan(seq=1, deaths=deaths, alone=alone, acks_late=acks_late))

    assert fate() == Fate(TaskEvent.RECOVER, charged=True)
    assert fate(alone=False) == Fate(TaskEvent.RECOVER, charged=False)
    assert fate(alone=False, deaths=99) == Fate(TaskEvent.RECOVER, charged=False)
    assert fate(deaths=WORKER_DEATHS_MAX - 2) == Fate(TaskEvent.RECOVER, charged=True)
    assert fate(deaths=WORKER_DEATHS_MAX - 1) == Fate(TaskEvent.ABANDON, charged=True)
    assert fate(acks_late=False, alone=False) == Fate(TaskEvent.ABANDON, charged=True)
