"""What a task queue must do to be measured, ours included.

A system is a module in ``benchmarks/tasks/peers`` (or ``own.py``) with a class behind ``TaskSystem``, and what its
workers import by name, made when it is asked for: the driver has by then put its address into the environment. It is
measured as its documentation says it is fast, with its results stored, by its own worker program; what differs is said
in ``name`` and ``durability``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

URL_VARIABLE = "BENCHMARK_URL"
"""Where the server of a system is, or its file: for its worker program."""

NO_OP, SPIN_1, SPIN_20 = "no-op", "1 ms", "20 ms"
KINDS: Mapping[str, tuple[str, tuple[int | float, ...]]] = {
    NO_OP: ("no_op", (1, 2)),
    SPIN_1: ("spin", (1.0,)),
    SPIN_20: ("spin", (20.0,)),
}
"""A kind of task: the function in ``work.py``, and its arguments."""


class TaskClient(Protocol):
    """Who sends tasks and waits for them. One thread."""

    def send(self, kind: str) -> Any:
        """Store one call; return a handle when it is acknowledged."""

    def send_many(self, kind: str, count: int) -> None:
        """Store so many calls in the fastest way that the system offers."""

    def wait(self, handle: Any) -> None:
        """Return when the result has come back."""

    def is_done(self, count: int) -> bool:
        """Tell whether all of ``count`` tasks, ever, have their results stored and are acknowledged. Cheap."""

    def results(self) -> int:
        """Return how many results are stored, exactly."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many tasks a measurement takes."""

    singles: int = 5_000
    bulk: int = 5_000
    spins_1_ms: int = 500
    """For each worker."""
    spins_20_ms: int = 50
    """For each worker."""
    round_trips: int = 200


USUAL = Amounts()


class TaskSystem(Protocol):
    """A way to keep tasks and have them done."""

    @property
    def name(self) -> str:
        """How the table calls it, with its durability in brackets."""

    @property
    def amounts(self) -> Amounts:
        """How many tasks it gets."""

    def serving(self, directory: Path) -> AbstractContextManager[None]:
        """Start its servers, and put into the environment where they are. Raises Unavailable."""

    def connect(self) -> TaskClient:
        """Return a client."""

    def working(self, workers: int, log: Path) -> AbstractContextManager[list[int]]:
        """Run its worker program with so many processes that do tasks; yield the ids of what was started."""


def url() -> str:
    """Return where the server of this system is."""
    return os.environ[URL_VARIABLE]
