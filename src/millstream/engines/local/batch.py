"""Flows as batches: all there is, to the end, on Polars' streaming engine.

The output appears whole or not at all: rows for a topic are staged and become visible in one transaction, a file is
renamed when it is complete. A crash at any other moment leaves the output as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pyarrow as pa

from millstream.engines.local.append import Staged
from millstream.engines.local.delays import record_delays
from millstream.engines.local.flow_aggregate import ROWS, GroupKernel
from millstream.engines.local.flow_calls import calls_of, enqueue
from millstream.engines.local.flow_catalog import store_identity
from millstream.engines.local.flow_counting import CountKernel
from millstream.engines.local.flow_errors import step_errors
from millstream.engines.local.flow_files import check_place, outgoing_of_batch, write_file
from millstream.engines.local.flow_finished import AtEnd, note_finished
from millstream.engines.local.flow_fitting import Fitting, own_error, whole
from millstream.engines.local.flow_joining import JoinKernel
from millstream.engines.local.flow_lakes import owner_of, write_lake
from millstream.engines.local.flow_learning import Trainers, training
from millstream.engines.local.flow_memory import SpilledRows, memory_limit
from millstream.engines.local.flow_process_stage import processed
from millstream.engines.local.flow_sinks import (
    Rows,
    commit_staged,
    open_dead_letters,
    open_topic,
)
from millstream.engines.local.flow_sources import (
    ReadFigures,
    SourceFigures,
    batch_frame,
    naming_the_file,
)
from millstream.engines.local.flow_sql import write_table
from millstream.engines.local.flow_steps import StepRunner, to_arrow
from millstream.engines.local.flow_tally import Counter, Fused, Tally
from millstream.engines.local.flow_versions import AsofKernel
from millstream.engines.local.flow_webhook import open_refused, post_all
from millstream.engines.local.log import LocalLog
from millstream.flows.branches import branches
from millstream.flows.event_time import event_time_anchor
from millstream.flows.figures import SIDES, StepPlace
from millstream.flows.keyed import Process
from millstream.flows.lakes import LakeSink
from millstream.flows.learning import Fit
from millstream.flows.merging import JoinSource, UnionSource, trains
from millstream.flows.plan import Aggregation, Plan, Stateful
from millstream.flows.report import ProgressListener, RunReport
from millstream.flows.source import FileSink, Sink, TopicSink
from millstream.flows.sql import SqlSink
from millstream.flows.webhook import WebhookSink
from millstream.log.definition import TopicInfo
from millstream.primitives.histogram import Histogram
from millstream.primitives.identity import new_id
from millstream.primitives.telemetry import reach
from millstream.store import Transaction
from millstream.tasks.message import TaskMessage


class LocalBatch:
    """Runs plans as batches on this machine. Thread-safe; each call is independent."""

    def __init__(self, log: LocalLog) -> None:
        """Read topics from, and write them to, this log."""
        self._log = log
        self.store = log.store

    def check_batch(self, plan: Plan) -> None:
        """Raise PlanError for what this engine cannot run: nothing that the builder accepts."""
        plan.schemas()
        check_place(plan)

    def run(
        self,
        plan: Plan,
        *,
        name: str,
        collect: bool,
        progress: ProgressListener | None,
        memory_bytes: int | None = None,
        at_end: AtEnd | None = None,
    ) -> RunReport:
        """Run to the end of what is there now; see ``BatchEngine``.

        ``at_end`` is done in the transaction that shows what the batch gives to topics, tasks and models.
        """
        with (
            training(self._log.store, plan, name, commits_often=False) as trainers,
            memory_limit(memory_bytes, self._log.store) as spill,
        ):
            run = _BatchRun(
                self._log,
                plan,
                name,
                trainers,
                collect=collect,
                progress=progress,
                spill=spill,
                at_end=at_end,
            )
            return run.run()


@dataclass
class _Written:
    rows: int
    computed_s: float
    """When it was computed, by the monotonic clock."""
    table: pa.Table | None = None
    outputs: list[tuple[TopicInfo, Rows]] = field(default_factory=list)
    """What is for topics, to be committed."""
    messages: list[TaskMessage] = field(default_factory=list)


class _BatchRun:
    def __init__(
        self,
        log: LocalLog,
        plan: Plan,
        name: str,
        trainers: Trainers,
        *,
        collect: bool,
        progress: ProgressListener | None,
        spill: Path | None = None,
        at_end: AtEnd | None = None,
    ) -> None:
        self._log = log
        self._at_end = at_end
        self._spill = spill
        self._undone = ExitStack()
        """Removes what is needed only while it runs."""
        self._clock = log.store.clock
        self._plan = plan
        self._name = name
        self._collect = collect
        self._figures = ReadFigures(progress=progress)
        self._tally = Tally(plan, self._clock.now_us)
        self._failures = self._tally.failures
        self._fused = Fused()
        """The steps since rows were computed last."""
        self._untimed = 0
        self._trainers = trainers
        self._fitting: Fitting | None = None
        """What is learned while the output is computed."""

    def run(self) -> RunReport:
        with self._undone:
            return self._ran()

    def _ran(self) -> RunReport:
        sink = None if self._collect else self._plan.sink
        topic = (
            open_topic(self._log, sink, self._plan.schema) if isinstance(sink, TopicSink) else None
        )
        dead = None if self._collect else open_dead_letters(self._log, self._plan, self._name)
        started_us, started_s = self._clock.now_us(), self._clock.monotonic_s()
        with (
            step_errors(f"flow {self._name!r}"),
            naming_the_file(self._plan),
            own_error(lambda: self._fitting),
        ):
            frame = self._computed(self._plan, started_us)
            with self._computing():
                written = self._written(sink, topic, frame)
                if self._fitting is not None:
                    # A sink that has these rows already has read none.
                    self._fitting.finish()
            if isinstance(sink, WebhookSink):
                dead = dead or open_refused(self._log, sink, self._name)
        computed_s = written.computed_s
        reach("flow.batch_computed")
        delays = {
            "source_wait": self._figures.source_wait,
            "start_wait": self._figures.start_wait,
            "process": _lasted(computed_s - started_s, self._figures.rows_in),
        }
        outputs = written.outputs
        if dead is not None and (letters := self._failures.take()) is not None:
            outputs.append((dead, letters))
        self._commit(outputs, written.messages, delays)
        reach("flow.batch_committed")
        ended_s = self._clock.monotonic_s()
        published = {"publish": _lasted(ended_s - computed_s, self._figures.rows_in)}
        # How long publishing took is known only when it is over, so it has a transaction of its own.
        self._log.store.write(lambda tx: self._record(tx, published))
        return RunReport(
            flow=self._name,
            mode="batch",
            rows_in=self._figures.rows_in,
            rows_out=written.rows,
            late=0,
            untimed=self._untimed,
            failed=self._failures.count,
            batches=1,
            started_us=started_us,
            duration_us=round((ended_s - started_s) * 1e6),
            delays={**delays, **published},
            table=written.table,
            models=self._trainers.figures,
            steps=self._tally.figures(),
        )

    def _written(self, sink: Sink | None, topic: TopicInfo | None, frame: pl.LazyFrame) -> _Written:
        """Compute the output and write it, or return what is to be committed of it."""
        schema, now_s = self._plan.schema, self._clock.monotonic_s
        if isinstance(sink, FileSink):
            # A file is written while it is computed, so its publishing is part of the processing.
            with outgoing_of_batch(sink) as outgoing:
                file, rows = write_file(sink, frame, new_id(self._clock), outgoing=outgoing)
                try:
                    file.publish(replaces=not sink.directory)
                except BaseException:
                    file.discard()
                    raise
            return _Written(rows, now_s())
        if isinstance(sink, LakeSink):
            owner = owner_of(store_identity(self._log.store), self._name)
            return _Written(write_lake(sink, frame, schema, owner=owner), now_s())
        if isinstance(sink, SqlSink):
            return _Written(write_table(sink, frame, schema), now_s())
        if sink is None and self._plan.calls is None and not self._collect:
            parts = frame.collect_batches(engine="streaming")
            return _Written(sum(part.height for part in parts), now_s())
        if topic is not None and self._spill is not None and self._plan.calls is None:
            spilled = self._spilled(self._spill, frame, schema)
            return _Written(spilled.rows, now_s(), outputs=[(topic, spilled)])
        table = to_arrow(frame.collect(engine="streaming"), schema)
        if isinstance(sink, WebhookSink):
            post_all(self._log, sink, table, flow=self._name, failures=self._failures)
        computed_s = now_s()
        calls = None if self._collect else self._plan.calls
        return _Written(
            table.num_rows,
            computed_s,
            table if self._collect else None,
            outputs=[] if topic is None else [(topic, table)],
            messages=calls_of(calls, table, self._clock.now_us()),
        )

    def _spilled(self, folder: Path, frame: pl.LazyFrame, schema: pa.Schema) -> SpilledRows:
        path = folder / f"{new_id(self._clock)}.arrow"
        self._undone.callback(path.unlink, missing_ok=True)
        return SpilledRows.of(frame, schema, path)

    def _commit(
        self,
        outputs: Sequence[tuple[TopicInfo, Rows]],
        messages: list[TaskMessage],
        delays: Mapping[str, Histogram],
    ) -> None:
        with step_errors(f"flow {self._name!r}"):
            self._trainers.finish()
            taught = self._trainers.taught()

        def work(tx: Transaction, staged: list[Staged]) -> None:
            for output in staged:
                output.apply(tx)
            enqueue(tx, messages)
            for trainer, learned in taught:
                trainer.store(tx, learned)
            self._record(tx, delays)
            if not self._collect or trains(self._plan):
                note_finished(tx, self._name, self._at_end)

        commit_staged(self._log, outputs, work)

    def _record(self, tx: Transaction, delays: Mapping[str, Histogram]) -> None:
        record_delays(tx, "batch", self._name, delays)

    def _computed(
        self,
        plan: Plan,
        started_us: int,
        time: str | None = None,
        path: tuple[str, ...] = (),
    ) -> pl.LazyFrame:
        """Return the output; what lies before the last aggregation, or in outer joins, is computed now.

        ``time`` is the column of the event time, if the plan is a side of something that asks for one; ``path`` is
        which part of the flow's plan it is.
        """
        frame = self._read(plan, started_us, time, path)
        schemas = plan.schemas()
        first = 0
        for index, step in enumerate(plan.steps):
            if isinstance(step, Stateful):
                frame = self._stateless(plan, first, index, frame, path)
                counter = self._tally.at(StepPlace(path, index + 1))
                if isinstance(step, Process):
                    frame = self._processed(plan, step, index, frame, counter)
                elif isinstance(step, Fit):
                    frame = self._fitted(plan, step, index, schemas[index + 1], frame, counter)
                elif step.counts_rows:
                    frame = self._counted(step, index, schemas[index], frame, counter)
                else:
                    frame = self._aggregated(step, index, schemas[index], frame, counter)
                first = index + 1
        frame = self._stateless(plan, first, len(plan.steps), frame, path)
        if plan is not self._plan or self._fitting is None:
            return frame
        return whole(frame, self._fitting, schemas[-1])

    def _fitted(
        self,
        plan: Plan,
        step: Fit,
        index: int,
        schema: pa.Schema,
        frame: pl.LazyFrame,
        counter: Counter,
    ) -> pl.LazyFrame:
        """Learn the rows while they are read, if they are read once; otherwise learn all of them now."""
        fitting = Fitting(self._trainers.of(step), frame, schema, counter)
        self._fused.add(counter, is_function=True)
        if plan is self._plan and max(plan.stateful()) == index:
            self._fitting = fitting
            return fitting.frame()
        # Aggregations and joins may read them more than once.
        with own_error(lambda: fitting), self._computing():
            if self._spill is None:
                return fitting.rows().lazy()
            spilled = self._spilled(self._spill, fitting.frame(), schema)
            fitting.finish()
        return spilled.frame()

    def _read(
        self, plan: Plan, started_us: int, time: str | None, path: tuple[str, ...]
    ) -> pl.LazyFrame:
        counter = self._tally.at(StepPlace(path, 0))
        match plan.source:
            case UnionSource(plans=plans):
                return pl.concat(
                    [
                        self._computed(part, started_us, path=(*path, f"of {number}"))
                        for number, part in enumerate(plans, start=1)
                    ]
                )
            case JoinSource(left=left, right=right) as join:
                times = (None, None) if join.time is None else (join.time.left, join.time.right)
                sides = [
                    self._computed(side, started_us, at, (*path, name))
                    for side, at, name in zip((left, right), times, SIDES, strict=True)
                ]
                return self._joined(join, sides, counter)
            case source:
                branch = branches(plan)[0]
                if branch.time is None:
                    branch = replace(branch, time=time)
                anchor = event_time_anchor(branch)
                at_source = anchor.time if anchor is not None and anchor.steps == 0 else None
                figures = SourceFigures(self._figures, counter.add)
                return batch_frame(
                    self._log, source, figures, started_us=started_us, time=at_source
                )

    def _joined(
        self, join: JoinSource, sides: list[pl.LazyFrame], counter: Counter
    ) -> pl.LazyFrame:
        if join.time is not None:
            # How many rows have no time is known only when all were read.
            with self._computing():
                sides = [frame.lazy() for frame in pl.collect_all(sides, engine="streaming")]
            for frame, time in zip(sides, (join.time.left, join.time.right), strict=True):
                self._untimed += frame.select(pl.col(time).null_count()).collect().item()
        kernel = AsofKernel(join) if join.is_asof else JoinKernel(join)
        self._fused.add(counter)
        return counter.counted(kernel.all_rows(*sides))

    def _stateless(
        self, plan: Plan, first: int, last: int, frame: pl.LazyFrame, path: tuple[str, ...]
    ) -> pl.LazyFrame:
        runner = StepRunner(
            plan.steps[first:last],
            plan.schemas()[first],
            places=[StepPlace(path, number) for number in range(first + 1, last + 1)],
            tally=self._tally,
        )
        self._fused.extend(runner.fused)
        return runner.apply(frame)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Count the time of the steps that are computed within."""
        with self._fused.computing():
            yield
        self._fused = Fused()

    def _collected(self, frame: pl.LazyFrame) -> pl.DataFrame:
        with self._computing():
            return frame.collect(engine="streaming")

    def _processed(
        self, plan: Plan, step: Process, index: int, frame: pl.LazyFrame, counter: Counter
    ) -> pl.LazyFrame:
        """Call a function with state for each row: all rows are in memory, for they have to be put in order."""
        rows = self._timed(frame, step.time)
        with counter.spending():
            given = processed(
                step,
                rows,
                plan.schemas()[index],
                where=f"step {index + 1}, {step.name}",
                failures=self._failures,
                now_us=self._clock.now_us,
                checks_time=any(at > index for at in plan.stateful()),
            )
        counter.add(given.height)
        return given.lazy()

    def _counted(
        self,
        step: Aggregation,
        index: int,
        schema: pa.Schema,
        frame: pl.LazyFrame,
        counter: Counter,
    ) -> pl.LazyFrame:
        """Count the rows of each key: all rows are in memory, for they have to be put in order."""
        kernel = CountKernel(step, schema, where=f"step {index + 1}, {step.name}")
        rows = self._timed(frame, step.time)
        with counter.spending():
            given = kernel.all_windows(rows)
        counter.add(given.height)
        return given.lazy()

    def _timed(self, frame: pl.LazyFrame, time: str | None) -> pl.DataFrame:
        """Return the rows whose time is known; without a time all of them."""
        rows = self._collected(frame)
        if time is None:
            return rows
        self._untimed += rows[time].null_count()
        return rows.filter(pl.col(time).is_not_null())

    def _aggregated(
        self,
        step: Aggregation,
        index: int,
        schema: pa.Schema,
        frame: pl.LazyFrame,
        counter: Counter,
    ) -> pl.LazyFrame:
        kernel = GroupKernel(step, schema, where=f"step {index + 1}, {step.name}")
        self._fused.add(counter)
        if kernel.kind is None and self._spill is not None:
            return counter.counted(kernel.final_lazy(kernel.partial(frame)))
        states = self._collected(kernel.partial(frame))
        if kernel.kind is not None:
            is_timed = pl.col(kernel.kind.time).is_not_null()
            self._untimed += int(states.filter(~is_timed)[ROWS].sum())
            states = kernel.kind.complete(states.filter(is_timed))
        given = kernel.final(states)
        counter.add(given.height)
        return given.lazy()


def _lasted(seconds: float, rows: int) -> Histogram:
    """Every row of a batch waits for the whole batch."""
    histogram = Histogram()
    if rows:
        histogram.record(round(seconds * 1e6), rows)
    return histogram
