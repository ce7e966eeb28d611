"""The builder of plans: ``app.read(clicks).filter(…).window(…).group_by(…).agg(…).write(…)``.

A flow is immutable: each call returns a new one, so a flow can be the start of several. Nothing
runs before ``run``, ``collect`` or ``stream``. What does not fit is refused by the call that says
it, with the step named.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Protocol

import pyarrow as pa

from millstream.flows.aggregate import Aggregate
from millstream.flows.contract import FlowEngines, Stop, collected
from millstream.flows.emission import Emission, emission_of
from millstream.flows.expression import Expression, as_expression
from millstream.flows.flow_joins import FlowJoins, names_of
from millstream.flows.flow_keyed import KeyedFlow
from millstream.flows.flow_learning import FlowLearning
from millstream.flows.flow_query import FlowQueries
from millstream.flows.flow_views import FlowViews
from millstream.flows.grouped import GroupedFlow, WindowedFlow
from millstream.flows.keyed import Keyed
from millstream.flows.kinds import LiteralValue, widened_schema
from millstream.flows.lakes import LakeSink, LakeTable, lake_sink
from millstream.flows.limits import BATCH_EVENTS, memory_bytes
from millstream.flows.merging import JoinSource, UnionSource
from millstream.flows.places import refuse_options
from millstream.flows.plan import Plan, Window, calls_of_rows, named_expressions
from millstream.flows.report import ProgressListener, RunReport
from millstream.flows.source import (
    FileSink,
    RowCalls,
    file_sink,
    named_target,
    refuse_key,
    topic_sink,
)
from millstream.flows.sql import SqlSink
from millstream.flows.steps import (
    BatchFunction,
    Event,
    EventCallable,
    Explode,
    Filter,
    Limit,
    MapBatches,
    MapEvents,
    Select,
    Sort,
    Step,
    WithColumns,
    refuse_uncallable,
)
from millstream.flows.webhook import WebhookSink
from millstream.flows.windows import CountWindow, Windows
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import SchemaLike, to_arrow_schema
from millstream.primitives.size import Size


class Named(Protocol):
    """A handle of a topic."""

    @property
    def name(self) -> str:
        """The topic's name."""


class Callee(Protocol):
    """A task, or a call of one that is not sent yet."""

    def row_calls(self) -> RowCalls:
        """Return it as something that is called with rows."""


@dataclass(frozen=True)
class Flow(FlowLearning, FlowJoins, FlowQueries, FlowViews):
    """A plan and the engines that can run it. Immutable; may be used by several threads."""

    plan: Plan
    engines: FlowEngines
    given_name: str | None = None

    @property
    def name(self) -> str:
        """The name given by ``named``, else that of the sink, else that of the task which is called."""
        return self.plan.end_name if self.given_name is None else self.given_name

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of what the flow gives."""
        return self.plan.schema

    def named(self, name: str) -> Flow:
        """Return the flow with a name: a stream's place and state are kept under it."""
        if not name:
            raise PlanError("a flow's name is empty", expected="a non-empty text")
        return replace(self, given_name=name)

    def filter(self, condition: Expression) -> Flow:
        """Keep the rows for which ``condition`` is true; null is not true."""
        return self._then(Filter(as_expression(condition)))

    def branch(self, condition: Expression) -> tuple[Flow, Flow]:
        """Return two flows: the rows for which ``condition`` is true, and all the others (null is among them).

        Every row is in exactly one of them. Each is a flow of its own, which reads the source for itself.
        """
        told = as_expression(condition)
        return self.filter(told), self.filter(~told.fill_null(False))

    def with_columns(self, **columns: Expression | LiteralValue) -> Flow:
        """Add columns, or replace those of the same name."""
        pairs = tuple((name, as_expression(value)) for name, value in columns.items())
        return self._then(WithColumns(pairs))

    def select(self, *columns: str | Expression, **named: Expression | LiteralValue) -> Flow:
        """Keep exactly these columns, in this order; keywords compute new ones."""
        computed = {name: as_expression(value) for name, value in named.items()}
        return self._then(Select(named_expressions(columns, computed)))

    def map_batches(
        self, function: BatchFunction, schema: SchemaLike, *, frames: str = "arrow"
    ) -> Flow:
        """Call ``function`` with an iterator of Arrow record batches; it yields such of ``schema``, or Polars frames.

        With ``frames="polars"`` the iterator gives Polars frames. What has another schema is a StepError.
        """
        refuse_uncallable(
            function, self._where("map_batches"), "from an iterator of batches to one"
        )
        declared = widened_schema(to_arrow_schema(schema), where=self._where("map_batches"))
        return self._then(MapBatches(function, declared, frames))

    def map(
        self,
        function: Callable[[dict[str, Any]], Event],
        schema: SchemaLike,
        *,
        on_error: str = "fail",
    ) -> Flow:
        """Call ``function`` with each event as a dict; it returns a dict of ``schema``.

        ``on_error`` says what becomes of an event for which it raises, or returns what does not fit: ``"fail"`` ends
        the run with a StepError, ``"skip"`` leaves the event out and counts it, ``"dead_letter"`` also writes it with
        its error to the topic ``<flow>.dead``, in the same commit.
        """
        return self._events(function, schema, "map", on_error)

    def flat_map(
        self,
        function: Callable[[dict[str, Any]], Iterable[Event]],
        schema: SchemaLike,
        *,
        on_error: str = "fail",
    ) -> Flow:
        """Call ``function`` with each event as a dict; it gives any number of dicts. ``on_error`` as for ``map``."""
        return self._events(function, schema, "flat_map", on_error)

    def async_map(
        self,
        function: Callable[[dict[str, Any]], Awaitable[Event]],
        schema: SchemaLike,
        *,
        concurrency: int = 16,
        on_error: str = "fail",
    ) -> Flow:
        """Await ``function`` for each event, up to ``concurrency`` at a time, in one event loop; the order is kept.

        For calls to services: a micro-batch takes as long as its slowest calls, not as all of them. After a crash the
        calls of the last micro-batch are made again. ``on_error`` as for ``map``.
        """
        return self._events(function, schema, "async_map", on_error, concurrency)

    def explode(self, column: str) -> Flow:
        """Make a row of each value of a column of lists; a list that is empty or null makes none."""
        return self._then(Explode(column))

    def sort(self, *by: str, descending: bool = False) -> Flow:
        """Order all rows by columns, nulls first; for a batch only, as a stream has no end."""
        return self._then(Sort(by, descending))

    def limit(self, rows: int) -> Flow:
        """Keep the first rows; for a batch only. Which they are is sure only behind ``sort``."""
        return self._then(Limit(rows))

    def top_k(self, rows: int, *, by: str | Sequence[str]) -> Flow:
        """Keep the rows with the greatest values of ``by``, greatest first; for a batch only. See ``ms.top_k``."""
        return self.sort(*names_of(by), descending=True).limit(rows)

    def distinct(self, *columns: str) -> Flow:
        """Reduce the rows to these columns (all, if none is named), each combination once; for a batch only.

        As a stream: ``window(…).distinct(…)``, once in each window.
        """
        return GroupedFlow(
            self, None, named_expressions(columns or tuple(self.schema.names), {})
        ).distinct()

    def window(
        self,
        windows: Windows,
        *,
        on: str | None = None,
        late: Duration = "0s",
        keep_late: bool = False,
        emit: str | Emission = "close",
    ) -> WindowedFlow:
        """Put each event in a window by its event time, the column ``on``; ``ms.count_window`` may do without.

        A stream waits ``late`` of event time before it closes a window. Events that come later are
        counted in the report and, with ``keep_late``, written to the topic ``<flow>.late``. A
        batch has no late events.

        ``emit="update"`` also gives the row of each group that a micro-batch has changed, and ``ms.early("10s")`` that
        of each group that has changed at most so often by the clock; the column ``window_closed`` tells them from the
        last row of the group, which is given when the window closes. A batch gives only the last ones.
        """
        late_us = duration_us(late)
        where = f"step {len(self.plan.steps) + 1}, window"
        if not _is_windows(windows) or late_us < 0:
            raise PlanError(
                f"window({windows!r}, late={late!r}) says nothing",
                where=where,
                expected='windows such as ms.tumbling("1h"), and a lateness that is not negative',
            )
        if on is None and (not isinstance(windows, CountWindow) or late_us or keep_late):
            raise PlanError(
                f"window({windows.text()}, late={late!r}) without an event time",
                where=where,
                expected='on="…", the column that says when an event happened; only ms.count_window(…) can do without, '
                "and then no event is late",
                next_step='write for example .window(…, on="at")',
            )
        emission = emission_of(emit, windows, where=where)
        window = Window(windows, on, late_us, keep_late, emission)
        window.check(self.schema, where=where)
        return WindowedFlow(self, window)

    def key_by(
        self,
        *keys: str,
        time: str | None = None,
        late: Duration = "0s",
        keep_late: bool = False,
        ttl: Duration | None = None,
    ) -> KeyedFlow:
        """Say which events belong together, for functions that remember: follow with ``process``.

        ``time`` is the event time: all events come in its order, once the watermark has passed them, so a stream gives
        what a batch gives. A stream waits ``late`` of event time for events out of order; those that come later are
        counted and, with ``keep_late``, written to ``<flow>.late``. Events of one key and one time come as they lie in
        their partition, those of several in no certain order. Without ``time`` events come as they arrive, at once.

        ``ttl`` forgets a key that has had no event, and has no timer, for so long. A null key is a key; without keys
        all events belong together. Raises PlanError for what does not fit.
        """
        keyed = Keyed(
            keys, time, duration_us(late), keep_late, None if ttl is None else duration_us(ttl)
        )
        keyed.check(self.schema, where=self._where("key_by"))
        return KeyedFlow(self, keyed)

    def group_by(self, *keys: str | Expression, **named: Expression) -> GroupedFlow:
        """Group rows by keys; a null key is a group. Follow with ``agg``."""
        return GroupedFlow(self, None, named_expressions(keys, named))

    def agg(self, **aggregates: Aggregate) -> Flow:
        """Aggregate all rows to one; for a batch only, as a stream has no end."""
        return GroupedFlow(self, None, ()).agg(**aggregates)

    def write(
        self,
        target: str | PurePath | Named | SqlSink | LakeTable | WebhookSink,
        *,
        key: str | None = None,
        partitions: int = 1,
        file_format: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Flow:
        """Name where the output goes: a topic, a file (``.parquet``, ``.csv``, ``.jsonl``, ``.arrow``), or more.

        A topic is made on first use, with ``partitions`` partitions chosen by the column ``key``. A path that ends in
        ``/`` is a directory: each run adds a file of ``file_format`` to it (Parquet unless said otherwise), and a
        stream one for each micro-batch, exactly once. So does a URL such as ``s3://bucket/path/``, of any file system
        that fsspec writes to; ``storage_options`` are for that one. ``ms.sql_table("orders", url)`` is a table of a
        database, ``ms.delta(…)`` and ``ms.iceberg(…)`` are tables of a lake, ``ms.webhook(url)`` a place on the web.
        """
        where = f"step {len(self.plan.steps) + 1}, write"
        if hasattr(target, "row_calls"):
            raise PlanError(
                f"{target!r} is a task, not a place",
                where=where,
                expected="a topic, a file, or a directory",
                next_step="to call it for each row, end the flow with .enqueue(task)",
            )
        other_options = (key, partitions, file_format, storage_options) != (None, 1, None, None)
        if isinstance(target, LakeTable):
            lake = lake_sink(target, self.schema, other_options=other_options, where=where)
            return self._ended(replace(self.plan, sink=lake), where)
        if isinstance(target, SqlSink | WebhookSink):
            if other_options:
                call = "sql_table" if isinstance(target, SqlSink) else "webhook"
                raise PlanError(
                    f"it has its key in {call}(…, key=…), and neither partitions nor a format",
                    where=where,
                    expected="none of key=, partitions=, file_format=, storage_options= here",
                )
            target.check(self.schema, where=where)
            return self._ended(replace(self.plan, sink=target), where)
        text, is_file = named_target(target, where=where)
        if is_file:
            refuse_key(key, partitions, where=where)
            options = storage_options
            files = file_sink(text, file_format, self.schema, options=options, where=where)
            return self._ended(replace(self.plan, sink=files), where)
        refuse_options(text, storage_options, where=where)
        topic = topic_sink(text, key, partitions, self.schema, where=where)
        return self._ended(replace(self.plan, sink=topic), where)

    def enqueue(self, call: Callee, *, task_id: str | None = None) -> Flow:
        """Call a task for each row of the output; its columns are the arguments of the same names.

        ``call`` is a task, or one with options and other arguments: ``alert.s(to="ops").set(queue="mail")``. The calls
        are sent by the commit that holds the flow's place, state and events: each row's once, whatever happens to
        the process. ``task_id`` is the column with the ids of the calls: a row whose id is stored already is not sent
        again, even by another run. It is an argument too only if the task has that parameter.

        May stand beside ``write`` of a topic. Raises PlanError when the columns do not fit the task's parameters; a
        value that does not fit is a StepError of the run, and nothing of that commit happens.
        """
        where = f"step {len(self.plan.steps) + 1}, enqueue"
        if not hasattr(call, "row_calls"):
            raise PlanError(
                f"{call!r} is no task",
                where=where,
                expected="a function with @app.task, or a call of one such as task.s(…)",
            )
        if self.plan.calls is not None:
            raise PlanError(
                "the flow calls a task already",
                where=where,
                expected="one task for each flow",
                next_step="call a task that sends the others, or write a topic and read it in a second flow",
            )
        calls = calls_of_rows(call.row_calls(), self.schema, task_id=task_id, where=where)
        return self._ended(replace(self.plan, calls=calls), where)

    def run(
        self, *, progress: ProgressListener | None = None, memory: Size | None = None
    ) -> RunReport:
        """Run as a batch: all there is now, to its end. The output appears whole or not at all.

        Without a sink the output is in the report's ``table``; a flow that ends in ``fit(model)`` has none.
        ``memory="2GiB"`` is what the steps may hold: what they sort, group and join by beyond it goes to disk. Raises
        PlanError and StepError.
        """
        self.engines.batch.check_batch(self.plan)
        return self.engines.batch.run(
            self.plan,
            name=self.name,
            collect=not (self.plan.is_ended or self.plan.only_trains),
            progress=progress,
            memory_bytes=None if memory is None else memory_bytes(memory),
        )

    def collect(self) -> pa.Table:
        """Run as a batch and return the output as a table, whatever sink the flow has."""
        self.engines.batch.check_batch(self.plan)
        report = self.engines.batch.run(self.plan, name=self.name, collect=True, progress=None)
        return collected(report)

    def stream(
        self,
        *,
        until: str | None = None,
        batch_events: int = BATCH_EVENTS,
        idle: Duration | None = None,
        shared: bool = False,
        stop: Stop | None = None,
        progress: ProgressListener | None = None,
    ) -> RunReport:
        """Run as a stream, exactly once, from where the flow of this name has come to.

        ``until=None`` waits for more until ``stop`` is set (or the process ends): open windows stay open and the next
        call continues. ``until="end"`` reads what is there at the start and then closes every
        window, because nothing more can come; events for a closed window are late from then on. ``until="now"`` reads
        what is there at the start and stops: called again and again, it is one stream that never stopped.

        ``idle`` lets a stream without an end close windows while nothing comes: a partition that shows no event for so
        long does not hold them open, and when all are quiet, event time goes on with the clock from the last event. A
        replay of the same events may close windows elsewhere then; without it the clock has no say.

        ``shared`` divides the flow by the partitions of its topics among all processes that stream it so; the rows are
        the same however many they are. Raises PlanError unless each step with state has the topic's key among its keys.

        Raises PlanError, StepError, and Fenced when another process streams the flow.
        """
        if until not in (None, "end", "now"):
            raise PlanError(
                f"stream(until={until!r}) says nothing", expected="None, 'end' or 'now'"
            )
        if type(batch_events) is not int or batch_events < 1:
            raise PlanError(f"a batch of {batch_events!r} events", expected="at least one")
        idle_us = None if idle is None else duration_us(idle)
        if idle_us is not None and (until or idle_us <= 0):
            raise PlanError(
                f"stream(until={until!r}, idle={idle!r})",
                expected="a positive duration, for a stream without an end",
                next_step='leave out idle=; until="end" closes all windows at its end anyway',
            )
        self.engines.stream.check_stream(self.plan)
        return self.engines.stream.stream(
            replace(self.plan, is_named=self.given_name is not None),
            name=self.name,
            until=until,
            batch_events=batch_events,
            idle_us=idle_us,
            shared=shared,
            stop=stop,
            progress=progress,
        )

    def reset(self) -> None:
        """Forget the place and the state that streams of this name have left; their output stays.

        The next stream begins at the first event there is. What was committed for a table and is not there yet is
        delivered first. Raises StepError when that database is away, and Fenced while a process streams the flow.
        """
        self.engines.stream.reset(self.name, self.plan)

    def _events(
        self,
        function: EventCallable,
        schema: SchemaLike,
        kind: str,
        on_error: str,
        concurrency: int = 1,
    ) -> Flow:
        refuse_uncallable(function, self._where(kind), "of one event, a dict")
        declared = widened_schema(to_arrow_schema(schema), where=self._where(kind))
        return self._then(MapEvents(function, declared, kind, on_error, concurrency))

    def _from(self, source: UnionSource | JoinSource) -> Flow:
        return replace(self, plan=Plan(source))

    def _where(self, step: str) -> str:
        return f"step {len(self.plan.steps) + 1}, {step}"

    def _then(self, step: Step) -> Flow:
        if self.plan.is_ended:
            end = "write" if self.plan.sink is not None else "enqueue"
            raise PlanError(
                f"{step.name} comes after {end}",
                where=f"step {len(self.plan.steps) + 1}, {step.name}",
                expected=f"{end} last",
                next_step=f"add the step before {end}, or read the topic in another flow",
            )
        return replace(self, plan=self.plan.then(step))

    def _ended(self, plan: Plan, where: str) -> Flow:
        if self.plan.sink not in (None, plan.sink):
            raise PlanError(
                f"the flow ends in {self.plan.sink.text()} already",
                where=where,
                expected="one end",
                next_step="call write twice on the flow before it; each is a flow of its own, with a name of its own",
            )
        if (
            isinstance(plan.sink, FileSink | SqlSink | LakeSink | WebhookSink)
            and plan.calls is not None
        ):
            raise PlanError(
                f"{plan.sink.text()} and {plan.calls.text()} cannot become true together",
                where=where,
                expected="a topic: its events and the calls are one commit",
                next_step="write it in a flow of its own",
            )
        return replace(self, plan=plan)


def _is_windows(windows: object) -> bool:
    return isinstance(windows, Windows)
