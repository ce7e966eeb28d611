"""What an engine does for flows. ``millstream.testing.flows_suite`` is the test of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from millstream.flows.figures import FlowFigures
from millstream.flows.kept import KeptState
from millstream.flows.models import ModelStore
from millstream.flows.plan import Plan
from millstream.flows.report import ProgressListener, RunReport


class Stop(Protocol):
    """Tells a stream to stop after the micro-batch it works on. ``threading.Event`` is one."""

    def is_set(self) -> bool:
        """Return whether to stop."""


class BatchEngine(Protocol):
    """Runs plans over all there is, to the end."""

    def check_batch(self, plan: Plan) -> None:
        """Raise PlanError for a step that this engine cannot run as a batch."""

    def run(
        self,
        plan: Plan,
        *,
        name: str,
        collect: bool,
        progress: ProgressListener | None,
        memory_bytes: int | None = None,
    ) -> RunReport:
        """Run to the end of what is there now. The output appears whole or not at all.

        With ``collect`` the output is in the report's ``table`` and the plan's sink is not used. What steps hold beyond
        ``memory_bytes`` goes to disk. Raises StepError.
        """


class StreamEngine(Protocol):
    """Runs plans over what is there and what comes, exactly once."""

    def check_stream(self, plan: Plan) -> None:
        """Raise PlanError for a step that this engine cannot run as a stream."""

    def stream(
        self,
        plan: Plan,
        *,
        name: str,
        until: str | None,
        batch_events: int,
        idle_us: int | None,
        shared: bool,
        stop: Stop | None,
        progress: ProgressListener | None,
    ) -> RunReport:
        """Run from where the flow of that name has come to; ``shared`` with all others that share it.

        It ends at what is there at its beginning with ``until="end"``, which closes all windows, and with
        ``until="now"``, which closes only what an open stream would have closed by then.

        A partition without an event for ``idle_us`` holds no window open; when all are quiet, event time goes on with
        the clock. Whatever happens to the process, the next call continues as if nothing had happened. Raises
        PlanError for a plan that cannot continue from the state there is, Fenced when another
        process streams the same flow, and StepError.
        """

    def state(
        self, plan: Plan, *, name: str, step: int | None, key: object, rows_max: int
    ) -> tuple[KeptState, ...]:
        """Return what the flow of that name keeps; see ``Flow.state``. Raises ConfigurationError."""

    def figures(self, plan: Plan, *, name: str) -> FlowFigures:
        """Return how the stream of that name is doing; see ``Flow.figures``. Raises ConfigurationError."""

    def reset(self, name: str, plan: Plan) -> None:
        """Forget the place and the state of a flow; what it has written stays. Raises Fenced while it runs.

        Output that was promised to the sink of ``plan`` and is not there yet is delivered first.
        """


@dataclass(frozen=True)
class FlowEngines:
    """The engines that a flow is bound to. The same object may be both."""

    batch: BatchEngine
    stream: StreamEngine
    place: str = ""
    """Where the topics of these engines are; flows of one place can be joined."""
    models: ModelStore | None = None
    """The models that flows train and ask."""


def collected(report: RunReport) -> pa.Table:
    """Return the table of a run with ``collect``."""
    if report.table is None:
        raise AssertionError("an engine returned no table from a run with collect=True")
    return report.table
