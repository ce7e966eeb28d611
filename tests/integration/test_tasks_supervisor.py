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
from millstream.tasks.limits import CHILDREN_MAX, RESTART_FIRST_US, RESTART_LONGEST_US

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


@pytest.mark.parametrize("children", [0, CHILDREN_MAX + 1])
def test_children_are_bounded(children: int) -> None:
    with pytest.raises(ConfigurationError, match="worker processes"):
        supervisor("pass", children=children)[0].run()
