"""Who counts as dead, and what becomes of the tasks."""

from __future__ import annotations

from millstream.tasks.lease import (
    Fate,
    LeaseWatch,
    Orphan,
    Sighting,
    WorkerSight,
    fate_of,
    sighting_of,
)
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


def orphan(
    *,
    deaths: int = 0,
    sole: bool = True,
    suspected: bool = False,
    acks_late: bool = True,
    sighting: Sighting = Sighting.UNKNOWN,
) -> Orphan:
    return Orphan(
        seq=1,
        deaths=deaths,
        sole=sole,
        suspected=suspected,
        acks_late=acks_late,
        sighting=sighting,
    )


def recovered(*, charged: bool, suspected: bool = True) -> Fate:
    return Fate(TaskEvent.RECOVER, charged=charged, suspected=suspected)


ABANDONED = Fate(TaskEvent.ABANDON, charged=True, suspected=True)


def test_without_a_mark_only_a_task_that_was_held_alone_is_charged() -> None:
    assert fate_of(orphan()) == recovered(charged=True)
    assert fate_of(orphan(sole=False)) == recovered(charged=False)
    assert fate_of(orphan(sole=False, deaths=99)) == recovered(charged=False)


def test_the_one_that_ran_is_charged_in_any_batch() -> None:
    assert fate_of(orphan(sole=False, sighting=Sighting.RAN)) == recovered(charged=True)


def test_those_that_waited_behind_it_are_not_even_suspected() -> None:
    waited = fate_of(orphan(sole=False, deaths=99, sighting=Sighting.WAITED))
    assert waited == recovered(charged=False, suspected=False)
    still = fate_of(orphan(suspected=True, sighting=Sighting.WAITED))
    assert still == recovered(charged=False)


def test_a_worker_that_dies_between_two_tasks_charges_nobody_the_first_time() -> None:
    assert fate_of(orphan(sighting=Sighting.IDLE)) == recovered(charged=False)
    # Its worker dies of its result, again and again: that must have an end.
    again = orphan(suspected=True, sighting=Sighting.IDLE)
    assert fate_of(again) == recovered(charged=True)


def test_poison_has_an_end() -> None:
    assert fate_of(orphan(deaths=WORKER_DEATHS_MAX - 2)) == recovered(charged=True)
    for sighting in (Sighting.RAN, Sighting.UNKNOWN):
        assert fate_of(orphan(deaths=WORKER_DEATHS_MAX - 1, sighting=sighting)) == ABANDONED


def test_at_most_once_is_given_up_whatever_ran() -> None:
    for sighting in Sighting:
        assert fate_of(orphan(acks_late=False, sole=False, sighting=sighting)) == ABANDONED


def test_what_a_worker_says_of_its_tasks() -> None:
    assert sighting_of(7, None) is Sighting.UNKNOWN
    assert sighting_of(7, 0) is Sighting.IDLE
    assert sighting_of(7, 7) is Sighting.RAN
    assert sighting_of(7, 8) is Sighting.WAITED
