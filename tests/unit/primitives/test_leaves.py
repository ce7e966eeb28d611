"""Identity, clocks, durability and steps: one promise each."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.durability import Durability, durability_of
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.identity import new_id
from millstream.primitives.telemetry import reach, set_listener
from millstream.testing.clock import VirtualClock
from tests.refusals import refused


def test_ids_sort_by_the_time_of_their_making(seed: int):
    clock, random = VirtualClock(), Random(seed)
    made = []
    for _ in range(200):
        made.append(new_id(clock))
        clock.jump(random.choice([1, 999, 10**6, 10**12]))
    assert made == sorted(made)


def test_ids_of_one_moment_differ():
    clock = VirtualClock()
    assert len({new_id(clock) for _ in range(1_000)}) == 1_000


def test_an_id_has_thirty_hexadecimal_characters_for_a_thousand_years():
    for clock in (VirtualClock(0), VirtualClock(), VirtualClock(33_000_000_000_000_000)):
        made = new_id(clock)
        assert len(made) == 30
        assert int(made, 16) >> 64 == clock.now_us()


def test_the_systems_clock_does_not_go_back():
    seconds = [SYSTEM_CLOCK.monotonic_s() for _ in range(100)]
    assert seconds == sorted(seconds)
    assert 1_700_000_000_000_000 < SYSTEM_CLOCK.now_us() < 1 << 62


def test_waiting_lets_at_least_that_much_pass():
    before = SYSTEM_CLOCK.monotonic_s()
    SYSTEM_CLOCK.wait_s(0.002)
    assert SYSTEM_CLOCK.monotonic_s() - before >= 0.002


def test_virtual_time_passes_only_when_told():
    clock = VirtualClock(5)
    assert (clock.now_us(), clock.monotonic_s()) == (5, 0.0)
    clock.wait_s(2)
    clock.advance("1s")
    assert (clock.now_us(), clock.monotonic_s()) == (3_000_005, 3.0)
    clock.jump(-3_000_000)
    assert (clock.now_us(), clock.monotonic_s()) == (5, 3.0)


@pytest.mark.parametrize("value", ["disk", Durability.DISK])
def test_a_durability_is_found_by_its_name(value: str):
    assert durability_of(value) is Durability.DISK
    assert durability_of("process") is Durability.PROCESS


@pytest.mark.parametrize("value", ["", "memory", "DISK", None, 1])
def test_another_durability_is_refused(value: str):
    with refused(ConfigurationError, repr(value), somewhere=False):
        durability_of(value)


@pytest.fixture
def steps() -> Iterator[list[str]]:
    reached: list[str] = []
    set_listener(reached.append)
    yield reached
    set_listener(None)


def test_steps_reach_the_one_listener_until_it_is_removed(steps: list[str]):
    reach("a.b")
    other: list[str] = []
    set_listener(other.append)
    reach("c.d")
    set_listener(None)
    reach("e.f")
    assert (steps, other) == (["a.b"], ["c.d"])
