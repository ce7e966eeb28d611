"""Flows as streams: micro-batches of what has arrived, each committed exactly once.

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

from millstream.engines.local import flow_catalog
from millstream.engines.local.flow_files import publish_all
from millstream.engines.local.flow_run import StreamRun
from millstream.engines.local.log import LocalLog
from millstream.flows.contract import Stop
from millstream.flows.event_time import inherited_time
from millstream.flows.fingerprint import fingerprint
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.report import ProgressListener, RunReport
from millstream.flows.source import FileSink, TopicSink, TopicSource
from millstream.flows.steps import Limit, Sort
from millstream.primitives.errors import PlanError


class LocalStream:
    """Streams plans from topics to topics of one store. Thread-safe; each call is independent."""

    def __init__(self, log: LocalLog) -> None:
        """Read topics from, and write them to, this log."""
        self._log = log

    def check_stream(self, plan: Plan) -> None:
        """Raise PlanError for what cannot run as a stream here, naming the step."""
        source, sink = plan.source, plan.sink
        if not isinstance(source, TopicSource):
            raise PlanError(
                f"{source.text()} cannot be streamed: it does not grow",
                where="read",
                expected="a topic",
                next_step="run() it as a batch, or append it to a topic first",
            )
        if not plan.is_ended or (isinstance(sink, FileSink) and not sink.directory):
            raise PlanError(
                "a stream has nowhere to put its output" if sink is None else sink.text(),
                where="write",
                expected="a topic, a directory of files or a task: a single file would never be finished",
                next_step='end the flow with .write("topic"), .write("directory/") or .enqueue(task)',
            )
        if isinstance(sink, TopicSink) and sink.topic == source.topic:
            raise PlanError(
                f"the flow would read what it writes to {sink.topic!r}",
                where="write",
                expected="two different topics",
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
        assert isinstance(plan.source, TopicSource)
        info = self._log.topic(plan.source.topic)
        claim = flow_catalog.claim(self._log.store, name, fingerprint(plan), info.id)
        publish_all(claim.files)
        try:
            run = StreamRun(
                self._log,
                plan,
                claim,
                info,
                bounded=until == "end",
                batch_events=batch_events,
                idle_us=idle_us,
            )
            run.loop(stop=stop, progress=progress)
        finally:
            # After a crash of the process the next one finds that the owner is dead.
            self._log.store.write(lambda tx: flow_catalog.release(tx, claim))
        return run.report()

    def reset(self, name: str) -> None:
        """Forget the place and state of a flow; its output stays. Raises Fenced while it runs."""
        flow_catalog.forget(self._log.store, name)


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
