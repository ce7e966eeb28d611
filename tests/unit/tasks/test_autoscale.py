"""When a pool grows and shrinks."""

from __future__ import annotations

import pytest

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.autoscale import Autoscale, PoolBounds
from millstream.tasks.limits import AUTOSCALE_GROW_US, CHILDREN_MAX

S = 1_000_000
BOUNDS = PoolBounds(10, 1)


def run(needs: list[int], *, keepalive_s: int = 3, bounds: PoolBounds = BOUNDS) -> list[int]:
    """Look once a second, and obey; return the processes after each look."""
    scale = Autoscale(keepalive_s * S)
    processes, after = bounds.fewest, []
    for second, need in enumerate(needs):
        processes = scale.target(need, processes, bounds, monotonic_us=second * S)
        after.append(processes)
    return after


#            seconds: 0  1  2  3  4  5
def test_it_doubles_while_tasks_wait() -> None:
    assert AUTOSCALE_GROW_US == S
    assert run([9, 9, 9, 9, 9, 9]) == [1, 2, 4, 8, 9, 9]


def test_it_never_leaves_its_bounds() -> None:
    assert run([99] * 6) == [1, 2, 4, 8, 10, 10]
    assert run([0] * 9, bounds=PoolBounds(9, 2)) == [2] * 9


def test_a_short_burst_starts_nothing() -> None:
    assert run([9, 1, 9, 1, 9, 0, 9]) == [1] * 7


def test_it_keeps_what_the_busiest_moment_of_the_keepalive_needed() -> None:
    grow = [4, 4, 4]
    #                       since 3       3 s later: the largest need was 2
    assert run([*grow, 1, 2, 0, 0, 0, 0, 0, 0])[2:] == [4, 4, 4, 4, 2, 2, 2, 2, 1]


def test_a_process_that_is_needed_again_starts_the_keepalive_anew() -> None:
    grow = [4, 4, 4]
    assert run([*grow, 1, 1, 4, 1, 1, 1])[2:] == [4] * 7
    assert run([*grow, 1, 1, 4, 1, 1, 1, 1])[-1] == 1


def test_changed_bounds_are_obeyed_at_once() -> None:
    scale = Autoscale(S)
    assert scale.target(0, 8, PoolBounds(3, 2), monotonic_us=0) == 3
    assert scale.target(0, 1, PoolBounds(3, 2), monotonic_us=0) == 2


@pytest.mark.parametrize(("most", "fewest"), [(0, 0), (1, 2), (CHILDREN_MAX + 1, 1), (3, 0)])
def test_bounds_are_bounded(most: int, fewest: int) -> None:
    with pytest.raises(ConfigurationError, match="worker processes"):
        PoolBounds(most, fewest)


def test_bounds_move_together_but_one_process_stays() -> None:
    assert PoolBounds(5, 2).moved(3) == PoolBounds(8, 5)
    assert PoolBounds(5, 2).moved(-3) == PoolBounds(2, 1)
    with pytest.raises(ConfigurationError):
        PoolBounds(2, 1).moved(-2)
    assert PoolBounds(CHILDREN_MAX, CHILDREN_MAX).is_fixed
