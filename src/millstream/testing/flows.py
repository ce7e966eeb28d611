"""For tests of flows: events go in, time passes, and what comes out is looked at after each step.

    with FlowTest(revenue, tmp_path) as flow:       # or the fixture ``millstream_flows``
        flow.feed("clicks", [{"page": "/", "at": noon}])
        assert flow.emitted() == []                 # the window is open
        flow.feed("clicks", [{"page": "/", "at": noon + minute}])
        assert flow.emitted() == [{"page": "/", "hits": 1, …}]

The engine is the real one, streaming in a real store with virtual time. Nothing is faked but the ends: a flow that
reads files is fed with events in their place, and what would be written to files is shown instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from millstream.app import App
from millstream.flows.flow import Flow
from millstream.flows.limits import BATCH_EVENTS
from millstream.flows.merging import JoinSource, UnionSource
from millstream.flows.plan import Plan
from millstream.flows.report import RunReport
from millstream.flows.source import FileSource, TopicSink, TopicSource
from millstream.log.definition import TopicInfo, TopicSpec, topic_spec
from millstream.primitives.duration import Duration
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schema import us_datetime
from millstream.testing.clock import VirtualClock
from millstream.testing.flow_gate import SteppedStream

Row = dict[str, Any]
OUTPUT = "__flow_test"
"""The topic that a flow writes to which has no topic of its own."""


class FlowTest:
    """Streams one flow, a micro-batch at a time. One thread uses it."""

    def __init__(
        self,
        flow: Flow | Callable[[App], Flow],
        folder: str | os.PathLike[str],
        *,
        idle: Duration | None = None,
        partitions: int = 1,
    ) -> None:
        """``flow`` is a flow, of whatever app, or a function that builds one; ``folder`` is where a store is made.

        ``idle`` is that of ``Flow.stream``. A function gets the test's own app and makes the topics. Of a flow the
        topics are made anew, without a key and with so many ``partitions``; its own store is not touched.
        """
        self._given = flow
        self._path = Path(folder) / "flow-under-test.mill"
        self._idle = idle
        self._partitions = partitions
        self._is_open = False
        self.clock = VirtualClock()
        """The clock on the wall, as the flow sees it. Event time is that of the events."""

    def __enter__(self) -> Self:
        """Open the store, and build the flow."""
        self.app = App("test", store=self._path, durability="process", clock=self.clock)
        try:
            self._prepare()
        except BaseException:
            self.app.close()
            raise
        self._is_open = True
        return self

    def _prepare(self) -> None:
        # It brings Polars, which tests of tasks do without.
        from millstream.engines.local.flows import LocalFlows

        given = self._built()
        self._inputs: dict[str, TopicInfo] = {}
        plan = _keeping_late(self._rebound(given.plan))
        if not isinstance(plan.sink, TopicSink):
            plan = replace(plan, sink=TopicSink(OUTPUT))
        assert isinstance(plan.sink, TopicSink)
        engines = LocalFlows(self.app.log_engine).engines
        self.flow = Flow(plan, engines, given.name)
        self._stream: SteppedStream | None = None
        self._shown: dict[str, dict[int, int]] = {}
        self._output = plan.sink.topic
        engines.stream.check_stream(plan)

    def _built(self) -> Flow:
        given: object = self._given
        if callable(given):
            given = given(self.app)
        if not isinstance(given, Flow):
            raise ConfigurationError(
                f"FlowTest was given {self._given!r}"
                + (f", which returned {given!r}" if given is not self._given else ""),
                where="FlowTest",
                expected="a flow, or a function that takes an app and returns a flow",
                next_step="return what app.read(…) and the steps behind it give",
            )
        return given

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the stream, and close the store."""
        self.restart()
        self._is_open = False
        self.app.close()

    def feed(
        self, source: str, events: Iterable[Mapping[str, Any]], *, partition: int | None = None
    ) -> None:
        """Append events to a topic that the flow reads, and let it process them: one micro-batch.

        ``source`` is the name of the topic or, of a flow that reads files, the path it was given. Without a
        ``partition`` the topic's key chooses. Raises what the flow raises: nothing of the micro-batch is stored then,
        and the next step takes the same events again.
        """
        self._refuse_unopened()
        if source not in self._inputs:
            raise ConfigurationError(
                f"the flow does not read {source!r}",
                where=f"flow {self.flow.name!r}",
                expected=f"one of {', '.join(map(repr, self._inputs))}",
            )
        rows = [dict(event) for event in events]
        if rows:
            self.app.log_engine.append(self._inputs[source], rows, partition=partition)
        self.step()

    def step(self) -> None:
        """Process all that has come, as a micro-batch, or look once whether something is due if nothing has."""
        self._refuse_unopened()
        left = self._backlog()
        while True:
            stream = self._started()
            try:
                stream.step()
            except BaseException:
                self._stream = None
                raise
            before, left = left, self._backlog()
            if not left or left == before:
                return

    def advance(self, duration: Duration) -> None:
        """Let time pass on the wall without an event, and let the flow look: for ``idle=``, and timers of the clock."""
        self._started()
        self.clock.advance(duration)
        self.step()

    def restart(self) -> None:
        """End the stream as a crash between two commits does; the next step goes on from what the store has."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.stop()

    def end(self) -> RunReport:
        """Process what is left, and close everything, as ``stream(until="end")`` does; return its report."""
        self.restart()
        return self.flow.stream(until="end")

    def emitted(self) -> list[Row]:
        """Return the rows that the flow gave since the last time, or since the start, partition after partition.

        Of a flow that calls a task: the rows it was called with.
        """
        return self._new(self._output)

    def late(self, side: Literal["left", "right"] | None = None) -> list[Row]:
        """Return the events since the last time that came too late or without a time; of a join those of a side.

        They are shown whether the flow keeps them (``keep_late=True``) or only counts them.
        """
        suffix = "late" if side is None else f"late_{side}"
        return self._new(f"{self.flow.name}.{suffix}")

    def dead(self) -> list[Row]:
        """Return the dead letters since the last time: ``step``, ``event`` (JSON), ``error``, ``traceback``, ``at``."""
        return self._new(f"{self.flow.name}.dead")

    def held(self, state: int = 0) -> list[Row]:
        """Return what the flow keeps: open windows as they would be emitted now, or rows that wait.

        ``state`` counts from 0, step by step: a join has two, the rows of its left and of its right side; an
        aggregation one; a ``process`` two, the rows whose time has not come, and its keys with state and timers.
        """
        from millstream.engines.local.flow_kept import held_rows

        return held_rows(self.app.log_engine.store, self.flow.plan, self.flow.name, state)

    @property
    def watermark(self) -> datetime | None:
        """How far event time is known to have come: windows up to there are closed. None before anything is known."""
        found = self.app.log_engine.store.look("flows/get", (self.flow.name,))
        closed_until_us = found[0][4] if found else None
        return None if closed_until_us is None else us_datetime(closed_until_us)

    def _refuse_unopened(self) -> None:
        if not self._is_open:
            raise ConfigurationError(
                "this FlowTest is not open",
                where="FlowTest",
                expected="its methods inside of its with block",
                next_step="write: with FlowTest(flow, tmp_path) as flow: …",
            )

    def _started(self) -> SteppedStream:
        self._refuse_unopened()
        if self._stream is None:
            self._stream = SteppedStream(
                lambda gate: self.flow.stream(
                    stop=gate, idle=self._idle, batch_events=max(BATCH_EVENTS, self._backlog())
                )
            )
        return self._stream

    def _backlog(self) -> int:
        """Return how many events the flow has not processed."""
        log = self.app.log_engine
        stored = sum(end - first for info in self._inputs.values() for first, end in log.ends(info))
        found = log.store.look("flows/get", (self.flow.name,))
        return stored - (int(found[0][5]) if found else 0)

    def _new(self, topic: str) -> list[Row]:
        log = self.app.log_engine
        if topic not in log.topic_names():
            return []
        info = log.topic(topic)
        shown = self._shown.setdefault(topic, {})
        rows: list[Row] = []
        for partition, (first, end) in enumerate(log.ends(info)):
            offset = shown.get(partition, first)
            while offset < end and (batch := log.read(info, partition, offset)) is not None:
                rows += batch.to_pylist()
                offset = batch.next_offset
            shown[partition] = offset
        return rows

    def _rebound(self, plan: Plan) -> Plan:
        """Return the plan reading topics of the test's own store."""
        match plan.source:
            case TopicSource() as source:
                return replace(plan, source=self._input(source.topic, source.topic, source))
            case FileSource() as source:
                path = ", ".join(source.patterns)
                return replace(plan, source=self._input(path, f"files-{len(self._inputs)}", source))
            case UnionSource() as union:
                parts = tuple(self._rebound(part) for part in union.plans)
                return replace(plan, source=replace(union, plans=parts))
            case JoinSource() as join:
                left, right = self._rebound(join.left), self._rebound(join.right)
                return replace(plan, source=replace(join, left=left, right=right))
            case _:
                return plan

    def _input(self, name: str, topic: str, source: TopicSource | FileSource) -> TopicSource:
        log = self.app.log_engine
        if name not in self._inputs:
            if topic not in log.topic_names():
                log.create_topic(_spec(topic, source, self._partitions))
            self._inputs[name] = log.topic(topic)
        return TopicSource(self._inputs[name].name, source.stored, source.schema)


def _spec(topic: str, source: TopicSource | FileSource, partitions: int) -> TopicSpec:
    return topic_spec(
        topic,
        schema=source.stored,
        key=None,
        partitions=partitions,
        retention=None,
        retention_bytes=None,
        compaction=False,
    )


def _keeping_late(plan: Plan) -> Plan:
    """Return the plan with late events written to a topic, which changes nothing else."""
    source = plan.source
    if isinstance(source, JoinSource):
        if source.time is None:
            return plan
        return replace(plan, source=replace(source, time=replace(source.time, keep_late=True)))
    for at, step in plan.stateful().items():
        return replace(plan, steps=(*plan.steps[:at], step.keeping_late(), *plan.steps[at + 1 :]))
    return plan
