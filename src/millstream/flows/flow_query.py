"""Steps written in SQL: the part of ``Flow`` that reads a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from millstream.flows.kinds import LiteralValue
from millstream.flows.plan import Plan
from millstream.flows.query import steps_of
from millstream.flows.steps import Step

if TYPE_CHECKING:
    from millstream.flows.flow import Flow


class FlowQueries(ABC):
    """What a flow can do with SQL."""

    plan: Plan

    @abstractmethod
    def _then(self, step: Step) -> Flow:
        """Return the flow with one more step."""

    @abstractmethod
    def _where(self, step: str) -> str:
        """Return where the next step is."""

    def sql(self, query: str, *, parameters: Mapping[str, LiteralValue] | None = None) -> Flow:
        """Say with a SELECT what to do with the rows: ``sql("SELECT key, value * 2 AS double FROM self")``.

        ``self`` are the rows of the flow. The query becomes ``filter``, ``select``, ``group_by``, ``agg``,
        ``distinct``, ``sort`` and ``limit``, so types, nulls and errors are those of these steps and not of a database:
        ``/`` gives a float, x / 0 is null, ``%`` has the sign of the divisor, names of columns are exact. A stream
        takes what looks at single rows; for groups it needs ``window(…).group_by(…).agg(…)``, and ORDER BY and LIMIT
        need an end. ``:name`` in the query stands for the value of that name in ``parameters``.

        Needs the extra ``millstream[sql]``: ConfigurationError without it. Raises PlanError for what is no SQL, for a
        column that is not there, for types that do not fit, and for what expressions cannot say.
        """
        where = self._where("sql")
        steps = steps_of(query, self.plan.schema, parameters or {}, where=where)
        schema = self.plan.schema
        for step in steps:  # before any is added, so that what does not fit is about this step
            schema = step.output(schema, where=where)
        flow = cast("Flow", self)
        for step in steps:
            flow = flow._then(step)
        return flow
