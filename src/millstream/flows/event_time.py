"""Where in a plan the event time of a window or of a join can be known first.

A watermark should follow the events that arrive, not those that a filter lets through: a filter
that drops everything of a partition must not stop time. So the column is traced back
through the steps to the columns it was computed from, as far towards the source as possible.
"""

from __future__ import annotations

from collections.abc import Sequence

from millstream.flows.branches import Anchor, Branch
from millstream.flows.expression import Column, Expression, columns_of, substituted
from millstream.flows.keyed import Process
from millstream.flows.learning import Fit
from millstream.flows.merging import JoinSource
from millstream.flows.plan import Plan
from millstream.flows.steps import AsofJoin, Explode, Filter, Join, Select, Step, WithColumns
from millstream.flows.windows import WINDOW_END, WINDOW_START


def event_time_anchor(branch: Branch) -> Anchor | None:
    """Return the earliest point where the event time of a branch is known.

    None when nothing behind it asks for one. ``steps`` is 0 at the source; it is greater when the column
    comes out of a function (``map_batches``) or out of a joined table.
    """
    if branch.time is None:
        return None
    return _traced(branch.steps, Column(branch.time), first=0, last=len(branch.steps))


def inherited_time(plan: Plan, before: int, at: int) -> str | None:
    """Return which column of what stands at ``before`` is the event time of the step ``at``; None if none is.

    ``before`` is a step that keeps state, or -1 for the join that the plan begins with. Of what it gives it must be
    known what can still come: that is so for the start and the end of windows, the event times of a join, and the
    column that ``process`` gives under the name of its time.
    """
    stateful = plan.stateful()
    behind = stateful[at].time
    assert behind is not None
    anchor = _traced(plan.steps, Column(behind), first=before + 1, last=at)
    time = anchor.time
    known: set[str | None]
    if before < 0:
        assert isinstance(plan.source, JoinSource)
        known = set(plan.source.times())
    elif isinstance(step := stateful[before], Process):
        known = {step.time} & set(step.schema.names)
    elif isinstance(step, Fit):
        known = set()
    else:
        known = {WINDOW_START, WINDOW_END}
    if not isinstance(time, Column) or time.name not in known:
        return None
    return time.name if anchor.steps == before + 1 else None


def _traced(steps: Sequence[Step], time: Expression, *, first: int, last: int) -> Anchor:
    for index in range(last - 1, first - 1, -1):
        step = steps[index]
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
