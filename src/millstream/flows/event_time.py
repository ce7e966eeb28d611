"""Where in a plan the event time of a window can be known first.

A watermark should follow the events that arrive, not those that a filter lets through: a filter
that drops everything of a partition must not stop time. So the window's column is traced back
through the steps to the columns it was computed from, as far towards the source as possible.
"""

from __future__ import annotations

from dataclasses import dataclass

from millstream.flows.expression import Column, Expression, columns_of, substituted
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.steps import AsofJoin, Explode, Filter, Join, Select, WithColumns
from millstream.flows.windows import WINDOW_END, WINDOW_START


@dataclass(frozen=True)
class Anchor:
    """After the first ``steps`` steps, ``time`` computes the event time of each row."""

    steps: int
    time: Expression


def event_time_anchor(plan: Plan) -> Anchor | None:
    """Return the earliest point where the event time of the plan's window is known.

    None when the plan has no window. ``steps`` is 0 at the source; it is greater when the column
    comes out of a function (``map_batches``) or out of a joined table.
    """
    at = plan.aggregation_at()
    if at is None:
        return None
    aggregation = plan.steps[at]
    if not isinstance(aggregation, Aggregation) or aggregation.window is None:
        return None
    return _traced(plan, Column(aggregation.window.on), first=0, last=at)


def inherited_time(plan: Plan, before: int, at: int) -> str | None:
    """Return which column of the aggregation ``before`` is the event time of the one ``at``; None if none is.

    Only the start and the end of its windows will do: of them it is known what can still come.
    """
    aggregation = plan.steps[at]
    assert isinstance(aggregation, Aggregation)
    assert aggregation.window is not None
    anchor = _traced(plan, Column(aggregation.window.on), first=before + 1, last=at)
    time = anchor.time
    if not isinstance(time, Column) or time.name not in (WINDOW_START, WINDOW_END):
        return None
    return time.name if anchor.steps == before + 1 else None


def _traced(plan: Plan, time: Expression, *, first: int, last: int) -> Anchor:
    for index in range(last - 1, first - 1, -1):
        step = plan.steps[index]
        match step:
            case Filter():
                continue
            case WithColumns(columns=columns):
                time = substituted(time, dict(columns))
            case Select(columns=columns):
                time = substituted(time, dict(columns))
            case Explode(column=column) if column not in columns_of(time):
                continue
            case Join() | AsofJoin() if not columns_of(time) & _added_by(step):
                continue
            case _:
                return Anchor(index + 1, time)
    return Anchor(first, time)


def _added_by(join: Join | AsofJoin) -> set[str]:
    keys = join.right_on if isinstance(join, Join) else (join.right_on, *join.right_by)
    return set(join.table.schema.names) - set(keys)
