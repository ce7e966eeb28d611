"""What cannot run as a stream on this machine: refused before anything is read, with the step named."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from millstream.engines.local.flow_lake import local_path
from millstream.flows.branches import Branch, branches, source_at, sources
from millstream.flows.event_time import event_time_anchor, inherited_time
from millstream.flows.lakes import LakeSink, LakeSource, LakeTable
from millstream.flows.merging import JoinSource, UnionSource, parts_of
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.source import (
    FileSink,
    FileSource,
    RowsSource,
    Source,
    TableSource,
    TopicSink,
    TopicSource,
)
from millstream.flows.sql import SqlSource
from millstream.flows.steps import Limit, Sort
from millstream.primitives.errors import PlanError


def check_stream(plan: Plan) -> None:
    """Raise PlanError for what cannot run as a stream."""
    sink = plan.sink
    _check_merging(plan)
    found = sources(plan)
    for source in found:
        if isinstance(source, TableSource | RowsSource | SqlSource):
            raise PlanError(
                f"{source.text()} cannot be streamed: it does not grow",
                where="read",
                expected="a topic, or files",
                next_step="run() it as a batch, or append it to a topic first",
            )
        if isinstance(source, LakeSource) and source.lake.is_pinned:
            raise PlanError(
                f"{source.text()} cannot be streamed: it does not grow",
                where="read",
                expected="a table without version=, snapshot= and timestamp=",
                next_step="run() it as a batch, or leave them out: a stream begins with what is there",
            )
    if isinstance(sink, LakeSink) and (sink.lake.mode, sink.lake.run) != ("append", None):
        raise PlanError(
            f"{sink.text()} with mode={sink.lake.mode!r}, run={sink.lake.run!r} is for a batch",
            where="write",
            expected='mode="append" and no run=: a stream adds each row once by itself',
            next_step="leave them out, or run() the flow as a batch",
        )
    if not (plan.is_ended or plan.trained) or (isinstance(sink, FileSink) and not sink.directory):
        raise PlanError(
            "a stream has nowhere to put its output" if sink is None else sink.text(),
            where="write",
            expected="a topic, a directory, a table, a webhook or a task: a single file would never be finished",
            next_step='end the flow with .write("topic"), .write("directory/") or .enqueue(task)',
        )
    if any(_reads_what_is_written(source, plan) for source in found):
        assert sink is not None
        raise PlanError(
            f"the flow would read what it writes to {sink.text()}",
            where="write",
            expected="two different places",
            next_step="write to another topic or directory",
        )
    for part in parts_of(plan):
        _refuse_unfinished(part)
    _check_stateful(plan)
    _check_times(branches(plan), found)


def refuse_early(plan: Plan) -> None:
    """Raise PlanError for rows that wait for the clock: a run that ends with what is there would not see it."""
    for part in parts_of(plan):
        for number, step in enumerate(part.steps, 1):
            window = step.window if isinstance(step, Aggregation) else None
            if window is not None and window.emission.every_us:
                raise PlanError(
                    f'emit=ms.{window.emission.text()} and until="now": the run is over before the clock is due',
                    where=f"step {number}, window",
                    expected='emit="close" or emit="update"',
                    next_step='write emit="update", or stream without until=',
                )


def _check_merging(plan: Plan) -> None:
    """Raise PlanError for what may not stand before a union or a join."""
    match plan.source:
        case UnionSource(plans=plans):
            name, sides = "union", plans
        case JoinSource(left=left, right=right) as join:
            name, sides = join.name, (left, right)
            if join.time is None:
                raise PlanError(
                    "a stream would have to keep every row of both flows for ever",
                    where=name,
                    expected="a time within which partners come",
                    next_step='write join_interval(…, within=("-1h", "1h"), time="…") or join_window(…)',
                )
        case _:
            return
    for side in sides:
        joins = isinstance(side.source, JoinSource)
        stateful = side.first_stateful()
        if joins or stateful is not None:
            step = "a join" if stateful is None else stateful.text()
            raise PlanError(
                f"{step} stands before a {name}",
                where=name,
                expected="steps that look at single rows there, in a stream",
                next_step="write that part to a topic of its own, and read the topic here",
            )
        _check_merging(side)
    # A source that is read twice is one, and so is what becomes of its changes.
    told = {
        (lake.identity, lake.on_change)
        for branch in branches(plan)
        if isinstance(branch.source, LakeSource)
        for lake in [branch.source.lake]
    }
    files = [source for source in sources(plan) if isinstance(source, FileSource | LakeSource)]
    if len(files) > 1 or len(told) > 1:
        raise PlanError(
            "a stream of several sources can read files for one of them only",
            where=name,
            expected="topics, and at most one source of files or of a table of a lake",
            next_step="stream the other files to a topic, and read that",
        )


def _refuse_unfinished(plan: Plan) -> None:
    for number, step in enumerate(plan.steps, 1):
        if isinstance(step, Sort | Limit):
            raise PlanError(
                f"{step.text()} would never be finished: a stream has no end",
                where=f"step {number}, {step.name}",
                expected="steps that need no end",
                next_step="run() the flow as a batch; a window can keep the greatest: ms.top_k(…)",
            )


def _reads_what_is_written(source: Source, plan: Plan) -> bool:
    sink = plan.sink
    if isinstance(sink, TopicSink):
        return isinstance(source, TopicSource) and sink.topic == source.topic
    if isinstance(sink, LakeSink):
        return isinstance(source, LakeSource) and _is_same(sink.lake, source.lake)
    if not isinstance(sink, FileSink) or not isinstance(source, FileSource):
        return False
    written = Path(sink.path).absolute()
    places = [Path(pattern).absolute() for pattern in source.patterns]
    return any(written in (place, place.parent) for place in places)


def _is_same(one: LakeTable, other: LakeTable) -> bool:
    paths = [local_path(lake.table) if lake.kind == "delta" else None for lake in (one, other)]
    if None not in paths:
        return paths[0] == paths[1]
    return one.identity == other.identity


def _check_stateful(plan: Plan) -> None:
    """Raise PlanError unless each step that keeps state can know when something is finished."""
    stateful = plan.stateful()
    for at, step in stateful.items():
        if isinstance(step, Aggregation) and step.window is None:
            raise PlanError(
                f"{step.text()} would never be finished: a stream has no end",
                where=f"step {at + 1}, {step.name}",
                expected="a window before group_by and agg",
                next_step='add .window(ms.tumbling("1h"), on="…"), or run() it as a batch',
            )
    for before, at in pairwise(stateful):
        earlier = stateful[before]
        if isinstance(earlier, Aggregation) and earlier.emits_early:
            raise PlanError(
                f"{stateful[at].text()} would take each early row for one of its own",
                where=f"step {at + 1}, {stateful[at].name}",
                expected='emit="close" at the windows before it',
                next_step="leave out emit= there; early rows can be written by a flow of their own",
            )
        if isinstance(earlier, Aggregation) and earlier.counts_rows:
            raise PlanError(
                f"{stateful[at].text()} would wait for every window of rows that is not complete, perhaps for ever",
                where=f"step {at + 1}, {stateful[at].name}",
                expected="steps that look at single rows behind count windows, in a stream",
                next_step="write the windows to a topic, and read that in another flow; or run() it as a batch",
            )
    behind = [-1, *stateful] if isinstance(plan.source, JoinSource) else [*stateful]
    for before, at in pairwise(behind):
        step = stateful[at]
        where = f"step {at + 1}, {step.name}"
        if step.time is not None and inherited_time(plan, before, at) is None:
            raise PlanError(
                f"{step.time!r} does not say what can still come",
                where=where,
                expected="window_start or window_end of the aggregation before, an event time of the join, or the "
                "time of key_by, given by its function under the same name; later perhaps under another name",
                next_step='for example .select(at=ms.col("window_end"), …).window(…, on="at")',
            )
        if step.keep_late or step.late_us:
            raise PlanError(
                "only events of the source can be late, not the results of a step that keeps state",
                where=where,
                expected="late= and keep_late= at the first window or key_by, or at the join",
                next_step="leave them out here",
            )


def _check_times(found: tuple[Branch, ...], all_sources: tuple[Source, ...]) -> None:
    """Raise PlanError where branches of one source do not see the time in the events themselves."""
    for number, source in enumerate(all_sources):
        of_source = [branch for branch in found if source_at(branch, all_sources) == number]
        for branch in of_source if len(of_source) > 1 else []:
            anchor = event_time_anchor(branch)
            if anchor is not None and anchor.steps:
                step = branch.steps[anchor.steps - 1]
                raise PlanError(
                    f"{source.text()} is read several times, and the event time comes out of {step.text()}",
                    where=f"step {branch.places[anchor.steps - 1].number}, {step.name}",
                    expected="an event time that is a column of the source, or computed from its columns",
                    next_step="write what the function gives to a topic, and read that",
                )
