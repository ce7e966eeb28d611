"""Flows of several sources: the rows of all of them (union), or pairs of rows of two (join).

    left  ──●─────●────────●──▶ event time        join_interval, within=("-5m", "1h"): the rows of the right
               [···○─────────]                    whose time is in that stretch around the left row's
    right ─────────○──▶                           join_window: those of the same window
                                                  join_asof: the last one that is not after the left row

Which partners a row can have is bounded by event time, so a stream may forget it behind the watermark. A join without
a time (``Flow.join`` of two flows) would have to keep every row for ever: it is for batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from millstream.flows.inference import check_event_time
from millstream.flows.steps import check_keys, joined_schema, keys_text
from millstream.flows.windows import (
    WINDOW_END,
    WINDOW_START,
    Calendar,
    Tumbling,
    exact_duration,
    refuse_window_columns,
)
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP, describe

if TYPE_CHECKING:
    from millstream.flows.plan import Plan

JOINS: Final = ("inner", "left", "right", "full", "semi", "anti")


@dataclass(frozen=True)
class UnionSource:
    """The rows of several plans that give the same columns."""

    plans: tuple[Plan, ...]

    @property
    def schema(self) -> pa.Schema:
        """The columns that all of them give."""
        return self.plans[0].schema

    def text(self) -> str:
        """Return the canonical text."""
        return f"union({', '.join(plan_text(plan) for plan in self.plans)})"

    def check(self, *, where: str) -> None:
        """Raise PlanError unless all plans give the same columns."""
        first = self.schema
        for plan in self.plans[1:]:
            if plan.schema.names != first.names or plan.schema.types != first.types:
                raise PlanError(
                    f"one side gives {describe(first)}, another {describe(plan.schema)}",
                    where=where,
                    expected="the same columns, of the same types and in the same order",
                    next_step="select() them before the union",
                )


@dataclass(frozen=True)
class Within:
    """The right row's time is from ``lower_us`` to ``upper_us`` after the left row's, both included."""

    lower_us: int
    upper_us: int

    def text(self) -> str:
        """Return the canonical text."""
        return f"within {_signed(self.lower_us)} to {_signed(self.upper_us)}"


@dataclass(frozen=True)
class AsOf:
    """The right row is the last of its key that is not after the left row, nor older than the tolerance."""

    tolerance_us: int | None

    def text(self) -> str:
        """Return the canonical text."""
        if self.tolerance_us is None:
            return "as of"
        return f"as of, tolerance {exact_duration(self.tolerance_us)}"


@dataclass(frozen=True)
class JoinTime:
    """The event times of both sides, which times fit, and how long a stream waits for late rows."""

    left: str
    right: str
    match: Within | Tumbling | Calendar | AsOf
    late_us: int
    keep_late: bool

    def text(self) -> str:
        """Return the canonical text."""
        return (
            f"{self.match.text()}, time {self.left}, {self.right}, "
            f"late={exact_duration(self.late_us)}"
        )


@dataclass(frozen=True)
class JoinSource:
    """Pairs of rows of two plans with equal keys and, where there is a ``time``, with times that fit.

    Rows whose time is null are left out and counted as untimed. A null key has no partner.
    """

    left: Plan
    right: Plan
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: str
    time: JoinTime | None

    @property
    def name(self) -> str:
        """What users call the step."""
        if self.time is None:
            return "join"
        if self.is_asof:
            return "join_asof"
        return "join_interval" if isinstance(self.time.match, Within) else "join_window"

    @property
    def is_asof(self) -> bool:
        """Whether each row of the left gets what held at its time, rather than all rows that fit."""
        return self.time is not None and isinstance(self.time.match, AsOf)

    @property
    def has_window(self) -> bool:
        """Whether the output says in which window the rows met."""
        return self.time is not None and isinstance(self.time.match, Tumbling | Calendar)

    @cached_property
    def schema(self) -> pa.Schema:
        """The window's bounds if there is one, the columns of the left, and those of the right without its keys.

        As of a time, also without the time of the right: it says from when on the row held.
        """
        schema = self.left.schema
        if self.how not in ("semi", "anti"):
            without = self.right_on
            if self.is_asof and self.time is not None:
                without = (*without, self.time.right)
            schema = joined_schema(
                schema, self.right.schema, without=without, where=self.name, of="right flow"
            )
        if self.has_window:
            bounds = [pa.field(name, TIMESTAMP) for name in (WINDOW_START, WINDOW_END)]
            schema = pa.schema([*bounds, *schema])
        return schema

    def text(self) -> str:
        """Return the canonical text."""
        time = "" if self.time is None else f", {self.time.text()}"
        on = keys_text(self.left_on, self.right_on)
        return f"{self.name}({plan_text(self.left)}, {plan_text(self.right)}, on {on}, {self.how}{time})"

    def summary(self) -> str:
        """Return the text without what the two sides are."""
        time = "" if self.time is None else f", {self.time.text()}"
        return f"{self.name}(on {keys_text(self.left_on, self.right_on)}, {self.how}{time})"

    def check(self, *, where: str) -> None:
        """Raise PlanError for keys, times or a kind of join that do not fit."""
        if self.how not in JOINS:
            raise PlanError(
                f"there is no {self.how!r} join of two flows",
                where=where,
                expected=f"one of {', '.join(map(repr, JOINS))}",
                next_step="choose one of them",
            )
        left, right = self.left.schema, self.right.schema
        check_keys(self.left_on, self.right_on, left, right, where, of="right flow")
        if self.time is not None:
            for column, schema in ((self.time.left, left), (self.time.right, right)):
                check_event_time(column, schema, where=where)
            match = self.time.match
            if self.has_window:
                refuse_window_columns([*left.names, *right.names], where=where)
            elif isinstance(match, Within) and match.lower_us > match.upper_us:
                raise PlanError(
                    f"no time is {match.text()}",
                    where=where,
                    expected="a stretch of time, the earlier bound first",
                    next_step='write for example within=("-5m", "1h")',
                )
        _ = self.schema

    def times(self) -> dict[str, int | None]:
        """Return the columns that say when, each with the side whose event time it is; None for the window's."""
        if self.time is None:
            return {}
        times: dict[str, int | None] = {self.time.left: 0}
        if not self.is_asof:
            times[self.time.right] = 1
        if self.has_window:
            times |= {WINDOW_START: None, WINDOW_END: None}
        return {name: side for name, side in times.items() if name in self.schema.names}


def plan_text(plan: Plan) -> str:
    """Return a plan in one line."""
    return ".".join([plan.source.text(), *(step.text() for step in plan.steps)])


def parts_of(plan: Plan) -> Iterator[Plan]:
    """Yield a plan and all the plans that it is made of."""
    yield plan
    match plan.source:
        case UnionSource(plans=plans):
            parts = plans
        case JoinSource(left=left, right=right):
            parts = (left, right)
        case _:
            parts = ()
    for part in parts:
        yield from parts_of(part)


def trains(plan: Plan) -> bool:
    """Return whether any part of a plan trains a model."""
    return any(part.trained is not None for part in parts_of(plan))


def _signed(microseconds: int) -> str:
    return ("-" if microseconds < 0 else "") + exact_duration(abs(microseconds))
