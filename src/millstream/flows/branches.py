"""The ways from the sources of a plan to the first step that keeps state, or to its end.

A plan of one source is one branch. A union pushes the steps behind it into its branches, for they look at single rows;
a join begins with the branches of its sides:

    orders ── filter ──┐                              branch 0, side 0
                       ├── join ── window ── agg
    bills ──┐          │
            ├── union ─┘                              branches 1 and 2, side 1
    refunds ┘
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from millstream.flows.expression import Expression
from millstream.flows.figures import SIDES, StepPlace
from millstream.flows.merging import JoinSource, UnionSource
from millstream.flows.plan import Plan
from millstream.flows.source import Source
from millstream.flows.steps import Step
from millstream.primitives.schema import describe


@dataclass(frozen=True)
class Branch:
    """A source and steps that keep no state. ``places`` are those of the steps where they were written."""

    source: Source
    steps: tuple[Step, ...]
    path: tuple[str, ...]
    """The part of the plan that the source is read in."""
    places: tuple[StepPlace, ...]
    side: int = 0
    """1 for the right side of a join."""
    time: str | None = None
    """The column of the event time at its end, if the step behind it asks for one."""

    def schemas(self) -> tuple[pa.Schema, ...]:
        """Return the schema of the source, then after each step."""
        return Plan(self.source, self.steps).schemas()


@dataclass(frozen=True)
class Anchor:
    """After the first ``steps`` steps, ``time`` computes the event time of each row."""

    steps: int
    time: Expression


def branches(plan: Plan, path: tuple[str, ...] = ()) -> tuple[Branch, ...]:
    """Return the branches of a plan, the left side of a join before the right; ``path`` is where the plan is a part."""
    stateful = plan.stateful()
    at = min(stateful, default=len(plan.steps))
    own = plan.steps[:at]
    places = tuple(StepPlace(path, number) for number in range(1, len(own) + 1))
    time = stateful[at].time if at in stateful else None
    match plan.source:
        case JoinSource() as join:
            times = (None, None) if join.time is None else (join.time.left, join.time.right)
            return tuple(
                replace(branch, side=side, time=times[side])
                for side, of_side in enumerate((join.left, join.right))
                for branch in branches(of_side, (*path, SIDES[side]))
            )
        case UnionSource(plans=plans):
            return tuple(
                replace(
                    branch,
                    steps=(*branch.steps, *own),
                    places=(*branch.places, *places),
                    time=time,
                )
                for number, part in enumerate(plans, start=1)
                for branch in branches(part, (*path, f"of {number}"))
            )
        case source:
            return (Branch(source, own, path, places, time=time),)


def sources(plan: Plan) -> tuple[Source, ...]:
    """Return the sources of a plan, each once however often it is read."""
    found: dict[str, Source] = {}
    for branch in branches(plan):
        found.setdefault(_identity(branch.source), branch.source)
    return tuple(found.values())


def source_at(branch: Branch, all_sources: tuple[Source, ...]) -> int:
    """Return which of the sources the branch reads."""
    identities = [_identity(source) for source in all_sources]
    return identities.index(_identity(branch.source))


def _identity(source: Source) -> str:
    return f"{type(source).__name__} {source.text()} {describe(source.schema)}"


def is_stateful(plan: Plan) -> bool:
    """Return whether a stream of the plan keeps more than its place."""
    return isinstance(plan.source, JoinSource) or bool(plan.stateful())
