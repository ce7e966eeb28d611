"""The supervisor alone: what it does with children that end, die, or cannot start."""

from __future__ import annotations

import signal
import sys

import pytest

from millstream.engines.local.worker_supervisor import (
    CHILD_REFUSED,
    EXIT_REFUSED,
    Supervisor,
    restart_delay_us,
)
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.errors import ConfigurationError
from millstream.tasks.autoscale import PoolBounds
from millstream.tasks.limits import (
    CHILDREN_MAX,
    ORDERS_REMEMBERED,
    RESTART_FIRST_US,
    RESTART_LONGEST_US,
)
from millstream.tasks.workers import Order, OrderKind

# Dies until as many files as told are there, then ends well.
DIES = """
import pathlib, sys
folder, times = pathlib.Path(sys.argv[1]), int(sys.argv[2])
lives = len(list(folder.iterdir()))
(folder / str(lives)).touch()
sys.exit(0 if lives == times else 9)
"""


def supervisor(*code: str, children: int = 1) -> tuple[Supervisor, list[str]]:
    said: list[str] = []
    command = [sys.executable, "-c", *code]
    return Supervisor(command, PoolBounds(children, children), SYSTEM_CLOCK, said.append), said


def test_children_that_end_well_are_not_started_again() -> None:
    here, said = supervisor("pass", children=3)
    assert here.run() == 0
    assert said == []


def test_a_child_that_dies_is_started_again_later_and_later(tmp_path: object) -> None:
    here, said = supervisor(DIES, str(tmp_path), "2")
    assert here.run() == 0
    assert said == [
        "worker 1 died (exit code 9); starts again in 100 ms",
        "worker 1 died (exit code 9); starts again in 200 ms",
    ]


def test_a_child_that_cannot_start_is_not_started_again() -> None:
    here, said = supervisor(f"import sys; sys.exit({CHILD_REFUSED})", children=2)
    assert here.run() == EXIT_REFUSED
    assert said == []


def test_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    supervisor("pass")[0].run()
    assert signal.getsignal(signal.SIGTERM) is before


def test_delays_double_up_to_the_longest() -> None:
    delays = [restart_delay_us(deaths) for deaths in range(1, 12)]
    assert delays[:3] == [RESTART_FIRST_US, 2 * RESTART_FIRST_US, 4 * RESTART_FIRST_US]
    assert delays[-1] == restart_delay_us(10**9) == RESTART_LONGEST_US


def test_an_order_is_obeyed_once_however_many_pass_it_on() -> None:
    here, said = supervisor("pass")

    def pass_on(number: int, kind: OrderKind = OrderKind.POOL_GROW, by: int = 1) -> None:
        here._obey(Order(id=str(number), kind=kind, most=by))

    here._is_ending = True  # Only the bounds change: no process is started.
    for _ in range(3):
        pass_on(0)
    assert here.bounds == PoolBounds(2, 2)
    pass_on(1, by=CHILDREN_MAX)
    assert here.bounds == PoolBounds(2, 2)
    assert said[0].startswith("not done: a pool of")
    for number in range(2, ORDERS_REMEMBERED + 1):
        pass_on(number, OrderKind.POOL_SHRINK if number % 2 else OrderKind.POOL_GROW)
    before = here.bounds
    pass_on(0)  # The oldest one is forgotten by now.
    assert here.bounds == before.moved(1)


@pytest.mark.parametrize("children", [0, CHILDREN_MAX + 1])
def test_children_are_bounded(children: int) -> None:
    with pytest.raises(ConfigurationError, match="worker processes"):
        supervisor("pass", children=children)[0].run()
