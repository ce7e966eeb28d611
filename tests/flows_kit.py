"""Events for windows; and streams that end early: told to, or by a crash, after which everything fails as if the
process were gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from hypothesis import strategies as st

from millstream.engines.local.flow_steps import StepRunner
from millstream.engines.local.flow_tally import Tally
from millstream.flows.figures import StepPlace
from millstream.flows.plan import Plan
from millstream.flows.report import Progress
from millstream.flows.source import TableSource
from millstream.flows.steps import Step
from millstream.primitives.schema import Timestamp
from millstream.primitives.telemetry import set_listener
from millstream.testing.flows_suite import EPOCH, LocalWorld

STEPS = ("flow.claimed", "flow.read", "flow.computed", "flow.staged", "flow.applied",
         "flow.committed", "flow.closing")  # fmt: skip
CRASHES = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 4)), max_size=4)

LATE_S = 600
SCHEMA = {"k": str | None, "n": int | None, "at": Timestamp}
# On full minutes, as the windows are: so that events fall on the edges of windows, and gaps are just as long as
# sessions allow. Time goes on by a minute or two an event, and each comes up to ten minutes out of order.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "a", "b"]),
        st.none() | st.integers(-100, 100),
        st.sampled_from([0, 60, 60, 120, 180, 420]),
        st.integers(0, LATE_S // 60).map(lambda minutes: 60 * minutes),
    ),
    min_size=4,
    max_size=40,
)
Row = dict[str, object]


def rows_of(events: Iterable[tuple[str | None, int | None, int, int]]) -> list[Row]:
    rows, second = [], 0
    for k, n, step_s, back_s in events:
        second += step_s
        # Late in the day where the calendar's windows end, so that several of them are seen.
        when = EPOCH + timedelta(hours=17, seconds=LATE_S + second - back_s)
        rows.append({"k": k, "n": n, "at": when})
    return rows


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


def runner_of(
    steps: Sequence[Step], schema: pa.Schema, *, carried: tuple[str, ...] = ()
) -> StepRunner:
    """Return what applies steps to rows of a table."""
    tally = Tally(Plan(TableSource(schema.empty_table(), schema), tuple(steps)), lambda: 0)
    places = [StepPlace((), number) for number in range(1, len(steps) + 1)]
    return StepRunner(steps, schema, places=places, tally=tally, carried=carried)
