"""``process`` as a stage of a stream, and as a step of a batch.

A stream keeps two things: rows whose time has not come yet, and what the function remembers of its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa

from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_events import Failures
from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_keyed import KeyedRunner
from millstream.engines.local.flow_keyed_state import KeyedState
from millstream.engines.local.flow_ordered_rows import OrderedRows, in_order
from millstream.engines.local.flow_stages import TIMELY, Advanced, fate
from millstream.engines.local.flow_state import StateChange
from millstream.engines.local.flow_steps import steps_behind
from millstream.engines.local.flow_tally import Tally
from millstream.flows.keyed import Process
from millstream.flows.plan import Plan
from millstream.flows.watermark import TIME_MAX, TIME_MIN
from millstream.primitives.errors import StepError

END_ROUNDS_MAX: Final = 10_000
"""How often, at the end of bounded input, timers may set timers behind the last one that was set."""


class ProcessStage:
    """A function with state and the steps behind it, up to the next step that keeps state or the end."""

    def __init__(
        self,
        plan: Plan,
        state: int,
        at: int,
        end: int,
        *,
        claim: Claim,
        where: Path,
        tally: Tally,
        now_us: Callable[[], int],
    ) -> None:
        """Compile, and load the state that the last commit left; ``at`` is where it stands, ``end`` where the next."""
        step, schemas = plan.steps[at], plan.schemas()
        assert isinstance(step, Process)
        self.states = range(state, state + 2)
        self._time = step.time
        self._runner = KeyedRunner(
            step,
            schemas[at],
            where=f"step {at + 1}, {step.name}",
            failures=tally.failures,
            now_us=now_us,
            checks_time=end < len(plan.steps),
        )
        self.after = steps_behind(plan, at, end, tally)
        self._empty = pl.DataFrame(schema=polars_schema(self.after.schema))
        self.closed_until_us = claim.closed_until_us.get(state, TIME_MIN)
        self._runner.agenda.closed_us = self.closed_until_us
        place = f"{where}, flow {claim.name!r}"
        self._waiting = OrderedRows(
            step.time, polars_schema(schemas[at]), closed_until_us=self.closed_until_us
        )
        self._waiting.load(claim.state.get(state, ()), where=place)
        self._keys = KeyedState(self._runner)
        self._keys.load(claim.state.get(state + 1, ()), where=place)
        self._runner.refuse_unheard_timers()

    def fate(self, side: int, mark: pl.Expr | None) -> pl.Expr:
        """Return what becomes of a row: it is late once those behind it may have been processed."""
        del side
        if self._time is None:
            return pl.lit(TIMELY, dtype=pl.Int8)
        time = pl.col(self._time)
        return fate(time, time.cast(pl.Int64) + 1, self.closed_until_us, mark)

    def are_timely(self, side: int, rows: pl.DataFrame) -> bool:
        """Return whether no row is late: without a time none is."""
        del side, rows
        return self._time is None

    def advance(self, sides: Sequence[pl.DataFrame | None], until_us: int) -> Advanced:
        """Process what lies before a watermark in the order of its time; without a time all that has come."""
        [rows] = sides
        due, waiting = self._waiting.advance(rows, until_us)
        given = self._runner.run(due, until_us)
        self.closed_until_us = max(self.closed_until_us, until_us)
        return self._behind(given), (waiting, self._keys.change())

    def fire_clock(self, now_us: int) -> Advanced:
        """Call the timers of the clock that are due."""
        given = self._runner.fire_clock(now_us)
        return self._behind(given), (StateChange(), self._keys.change())

    is_unfinished = False

    def finish(self) -> Advanced:
        """There is nothing that no watermark and no timer brings out."""
        return self._empty, (StateChange(),) * len(self.states)

    def _behind(self, given: pl.DataFrame) -> pl.DataFrame:
        return self.after.applied(given) if given.height else self._empty

    def watermark_behind_us(self, time: str) -> int:
        """Return the time that rows which this stage will give cannot be before."""
        del time
        return self.closed_until_us

    @property
    def first_due_us(self) -> int | None:
        """The least watermark that has something processed, or None if nothing waits."""
        waits = [_behind(self._runner.first_due_us), self._waiting.first_due_us]
        return min((us for us in waits if us is not None), default=None)

    @property
    def last_due_us(self) -> int | None:
        """The watermark behind which nothing waits, or None if nothing does."""
        waits = [_behind(self._runner.last_due_us), self._waiting.last_due_us]
        return max((us for us in waits if us is not None), default=None)

    @property
    def clock_due_us(self) -> int | None:
        """When the next timer of the clock is due, or None."""
        return self._runner.clock_due_us


def processed(
    step: Process,
    rows: pl.DataFrame,
    schema: pa.Schema,
    *,
    where: str,
    failures: Failures,
    now_us: Callable[[], int],
    checks_time: bool,
) -> pl.DataFrame:
    """Return what the function gives for all rows, whose times are known: the step in a batch."""
    runner = KeyedRunner(
        step, schema, where=where, failures=failures, now_us=now_us, checks_time=checks_time
    )
    until_us = TIME_MIN
    if step.time is not None and rows.height:
        until_us = rows.select(pl.col(step.time).cast(pl.Int64).max()).item() + 1
    parts = [runner.run(in_order(rows, step.time), until_us)]
    rounds = 0
    while runner.last_due_us is not None or runner.clock_due_us is not None:
        rounds += 1
        refuse_endless(rounds, where)
        if (last_us := _behind(runner.last_due_us)) is not None:
            parts.append(runner.run(rows.clear(), last_us))
        else:
            parts.append(runner.fire_clock(TIME_MAX))
    return pl.concat(parts)


def refuse_endless(rounds: int, where: str) -> None:
    """Raise StepError when timers at the end of bounded input set timers again and again."""
    if rounds > END_ROUNDS_MAX:
        raise StepError(
            f"at the end of the input timers set timers, {END_ROUNDS_MAX} times one behind the other",
            where=where,
            expected="timers that come to an end",
            next_step="set a timer again only while the state says that something has come since the last one",
        )


def _behind(time_us: int | None) -> int | None:
    """Return the watermark that has passed a time."""
    return None if time_us is None else time_us + 1
