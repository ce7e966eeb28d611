"""Flows as streams, of topics and of files: micro-batches of what has arrived, each committed exactly once.

One thread does it all, in this order; a crash anywhere leaves either all of a micro-batch or nothing of it:

    read        events of the topic, from the positions of the last commit            flow.read
    compute     the steps, late events apart, partial aggregates, closed windows      flow.computed
    stage       output frames are written and synced, and not visible                 flow.staged
    commit      ONE transaction: output, calls, positions, state, delays              flow.applied, flow.committed

The commit checks the epoch. Memory holds the open windows and one micro-batch. Nothing here asks the wall clock when to
close a window, unless the stream was told what an idle partition is.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from millstream.engines.local import flow_catalog
from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_file_intake import FileIntake
from millstream.engines.local.flow_files import publish_all
from millstream.engines.local.flow_intake import TopicIntake
from millstream.engines.local.flow_run import StreamRun
from millstream.engines.local.log import LocalLog
from millstream.flows.contract import Stop
from millstream.flows.event_time import inherited_time
from millstream.flows.fingerprint import fingerprint
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.report import ProgressListener, RunReport
from millstream.flows.source import (
    FileSink,
    FileSource,
    Source,
    TableSource,
    TopicSink,
    TopicSource,
)
from millstream.flows.steps import Limit, Sort
from millstream.log.definition import TopicInfo
from millstream.primitives.errors import PlanError


class LocalStream:
    """Streams plans from topics to topics of one store. Thread-safe; each call is independent."""

    def __init__(self, log: LocalLog) -> None:
        """Read topics from, and write them to, this log."""
        self._log = log

    def check_stream(self, plan: Plan) -> None:
        """Raise PlanError for what cannot run as a stream here, naming the step."""
        source, sink = plan.source, plan.sink
        if isinstance(source, TableSource):
            raise PlanError(
                f"{source.text()} cannot be streamed: it does not grow",
                where="read",
                expected="a topic, or files",
                next_step="run() it as a batch, or append it to a topic first",
            )
        if not plan.is_ended or (isinstance(sink, FileSink) and not sink.directory):
            raise PlanError(
                "a stream has nowhere to put its output" if sink is None else sink.text(),
                where="write",
                expected="a topic, a directory of files or a task: a single file would never be finished",
                next_step='end the flow with .write("topic"), .write("directory/") or .enqueue(task)',
            )
        if _reads_what_it_writes(plan):
            assert sink is not None
            raise PlanError(
                f"the flow would read what it writes to {sink.text()}",
                where="write",
                expected="two different places",
            )
        for number, step in enumerate(plan.steps, 1):
            if isinstance(step, (Sort, Limit)):
                raise PlanError(
                    f"{step.text()} would never be finished: a stream has no end",
                    where=f"step {number}, {step.name}",
                    expected="steps that need no end",
                    next_step="run() the flow as a batch; a window can keep the greatest: ms.top_k(…)",
                )
        _check_aggregations(plan)

    def stream(
        self,
        plan: Plan,
        *,
        name: str,
        until: str | None,
        batch_events: int,
        idle_us: int | None,
        stop: Stop | None,
        progress: ProgressListener | None,
    ) -> RunReport:
        """Run from where the flow of that name has come to; see ``StreamEngine``."""
        self.check_stream(plan)
        source = plan.source
        info = self._log.topic(source.topic) if isinstance(source, TopicSource) else None
        topic_id = FileIntake.topic_id if info is None else info.id
        claim = flow_catalog.claim(self._log.store, name, fingerprint(plan), topic_id)
        try:
            publish_all(claim.files)
            intake = self._intake(source, info, claim, bounded=until == "end")
            run = StreamRun(
                self._log, plan, claim, intake, batch_events=batch_events, idle_us=idle_us
            )
            run.loop(stop=stop, progress=progress)
        finally:
            # After a crash of the process the next one finds that the owner is dead.
            self._log.store.write(lambda tx: flow_catalog.release(tx, claim))
        return run.report()

    def _intake(
        self, source: Source, info: TopicInfo | None, claim: Claim, *, bounded: bool
    ) -> TopicIntake | FileIntake:
        if info is not None:
            offsets = {number: at.next_offset for number, at in claim.positions.items()}
            return TopicIntake(self._log, info, offsets=offsets, bounded=bounded)
        assert isinstance(source, FileSource), "tables were refused"
        return FileIntake(source, claim.inputs, bounded=bounded, clock=self._log.store.clock)

    def reset(self, name: str) -> None:
        """Forget the place and state of a flow; its output stays. Raises Fenced while it runs."""
        flow_catalog.forget(self._log.store, name)


def _reads_what_it_writes(plan: Plan) -> bool:
    source, sink = plan.source, plan.sink
    if isinstance(sink, TopicSink):
        return isinstance(source, TopicSource) and sink.topic == source.topic
    if not isinstance(sink, FileSink) or not isinstance(source, FileSource):
        return False
    written = Path(sink.path).absolute()
    places = [Path(pattern).absolute() for pattern in source.patterns]
    return any(written in (place, place.parent) for place in places)


def _check_aggregations(plan: Plan) -> None:
    found = [(n, s) for n, s in enumerate(plan.steps, 1) if isinstance(s, Aggregation)]
    for number, step in found:
        if step.window is None:
            raise PlanError(
                f"{step.text()} would never be finished: a stream has no end",
                where=f"step {number}, {step.name}",
                expected="a window before group_by and agg",
                next_step='add .window(ms.tumbling("1h"), on="…"), or run() it as a batch',
            )
    for (before, _), (number, step) in pairwise(found):
        assert step.window is not None
        where = f"step {number}, {step.name}"
        if inherited_time(plan, before - 1, number - 1) is None:
            raise PlanError(
                f"{step.window.on!r} does not say what can still come",
                where=where,
                expected="window_start or window_end of the aggregation before, perhaps under another name",
                next_step='for example .select(at=ms.col("window_end"), …).window(…, on="at")',
            )
        if step.window.keep_late or step.window.late_us:
            raise PlanError(
                "only events of the source can be late, not the results of an aggregation",
                where=where,
                expected="late= and keep_late= at the first window",
            )
