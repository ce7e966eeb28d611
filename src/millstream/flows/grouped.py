"""What is between ``window`` or ``group_by`` and the aggregates: handles that wait for ``agg`` or ``distinct``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from millstream.flows.aggregate import Aggregate
from millstream.flows.expression import Expression
from millstream.flows.plan import Aggregation, Window, named_expressions
from millstream.primitives.errors import PlanError

if TYPE_CHECKING:
    from millstream.flows.flow import Flow


@dataclass(frozen=True)
class WindowedFlow:
    """A flow whose events have windows: waits for ``group_by`` or ``agg``."""

    flow: Flow
    window: Window

    def group_by(self, *keys: str | Expression, **named: Expression) -> GroupedFlow:
        """Group each window's rows by keys; a null key is a group."""
        return GroupedFlow(self.flow, self.window, named_expressions(keys, named))

    def agg(self, **aggregates: Aggregate) -> Flow:
        """Aggregate all rows of each window."""
        return GroupedFlow(self.flow, self.window, ()).agg(**aggregates)

    def distinct(self, *columns: str) -> Flow:
        """Reduce each window's rows to these columns, each combination once."""
        return self.group_by(*columns).distinct()


@dataclass(frozen=True)
class GroupedFlow:
    """A flow whose rows are grouped: waits for ``agg``."""

    flow: Flow
    window: Window | None
    keys: tuple[tuple[str, Expression], ...]

    def agg(self, **aggregates: Aggregate) -> Flow:
        """Compute aggregates of each group: ``agg(hits=ms.count(), mean=ms.mean("price"))``."""
        where = f"step {len(self.flow.plan.steps) + 1}, agg"
        if not aggregates:
            raise PlanError(
                "nothing is aggregated",
                where=where,
                expected="at least one aggregate",
                next_step="write for example .agg(rows=ms.count()); for the groups alone, .distinct()",
            )
        for name, aggregate in aggregates.items():
            if not isinstance(aggregate, Aggregate):
                raise PlanError(
                    f"{name}={aggregate!r} is not an aggregate",
                    where=where,
                    expected='an aggregate such as ms.sum("price")',
                )
        return self.flow._then(Aggregation(self.window, self.keys, tuple(aggregates.items())))

    def distinct(self) -> Flow:
        """Return each combination of the keys once, without an aggregate."""
        return self.flow._then(Aggregation(self.window, self.keys, ()))
