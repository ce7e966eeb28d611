"""Streams that end early: told to, or by a crash, after which everything fails as if the process were gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from hypothesis import strategies as st

from millstream.flows.report import Progress
from millstream.primitives.telemetry import set_listener
from millstream.testing.flows_suite import LocalWorld

STEPS = ("flow.claimed", "flow.read", "flow.computed", "flow.staged", "flow.applied",
         "flow.committed", "flow.closing")  # fmt: skip
CRASHES = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 4)), max_size=4)


class Crash(BaseException):
    """The process is gone: nothing catches it, and nothing works after it."""


def crash_at(step: str, nth: int) -> None:
    seen = [0, 0]

    def listen(reached: str) -> None:
        seen[0] += reached == step
        if seen[1] or seen[0] == nth:
            seen[1] = 1
            raise Crash

    set_listener(listen)


def crash_each(
    path: Path, crashes: Iterable[tuple[str, int]], stream: Callable[[LocalWorld], object]
) -> None:
    """Open the store and stream, once for each crash; what a run leaves is what the next one finds."""
    for step, nth in crashes:
        world = LocalWorld(path)
        crash_at(step, nth)
        try:
            stream(world)
        except Crash:
            pass
        finally:
            set_listener(None)
            world.close()


class StopAfter:
    """Stops a stream after so many micro-batches, counted by its progress."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def is_set(self) -> bool:
        return self.left <= 0

    def progress(self, _: Progress) -> None:
        self.left -= 1
