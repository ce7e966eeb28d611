"""Where the output of flows goes: topics. Files are in ``flow_files``."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias, TypeVar

import pyarrow as pa

from millstream.engines.local.append import SegmentGone, Staged
from millstream.engines.local.flow_events import DEAD_SCHEMA
from millstream.engines.local.log import LocalLog
from millstream.flows.keyed import Process
from millstream.flows.kinds import widened
from millstream.flows.merging import parts_of
from millstream.flows.plan import Plan
from millstream.flows.source import TopicSink
from millstream.flows.steps import MapEvents
from millstream.log.definition import TopicInfo, topic_spec
from millstream.primitives.durability import Durability
from millstream.primitives.errors import ConfigurationError, PlanError, StoreStopped, UnknownTopic
from millstream.primitives.schema import describe
from millstream.primitives.telemetry import reach
from millstream.store import Transaction

T = TypeVar("T")
Result_co = TypeVar("Result_co", covariant=True)

STAGE_ATTEMPTS_MAX = 16


class StagedWork(Protocol[Result_co]):
    """What a transaction does with outputs that are staged: it applies them."""

    def __call__(self, tx: Transaction, staged: list[Staged]) -> Result_co:
        """Run inside the transaction."""


def open_topic(log: LocalLog, sink: TopicSink, schema: pa.Schema) -> TopicInfo:
    """Return the topic to write to, made if it is missing.

    Raises PlanError when it exists with columns that the output does not fit, TopicExists when it
    exists with another key or number of partitions than the flow asks for.
    """
    asked = sink.key is not None or sink.partitions != 1
    if not asked:
        try:
            info = log.topic(sink.topic)
        except UnknownTopic:
            info = None
        if info is not None:
            _refuse_other_columns(info, schema)
            return info
    try:
        spec = topic_spec(
            sink.topic,
            schema=schema,
            key=sink.key,
            partitions=sink.partitions,
            retention=None,
            retention_bytes=None,
            compaction=False,
        )
    except ConfigurationError as error:
        named = "the topics of late events and dead letters are called after the flow: give it a name with .named(…)"
        raise ConfigurationError(
            error.what,
            where=error.where,
            expected=error.expected,
            next_step=f"{error.next_step}; {named}",
        ) from error
    return log.create_topic(spec)


def open_dead_letters(log: LocalLog, plan: Plan, flow: str) -> TopicInfo | None:
    """Return the topic of the events that functions of the plan fail for, made if it is missing; None if none asks."""
    asked = any(
        isinstance(step, MapEvents | Process) and step.on_error == "dead_letter"
        for part in parts_of(plan)
        for step in part.steps
    )
    return open_topic(log, TopicSink(f"{flow}.dead"), DEAD_SCHEMA) if asked else None


def _refuse_other_columns(info: TopicInfo, schema: pa.Schema) -> None:
    there = {field.name: field for field in info.schema}
    fits = all(f.name in there and widened(there[f.name].type) == f.type for f in schema)
    complete = all(f.nullable or f.name in schema.names for f in info.schema)
    if not (fits and complete):
        raise PlanError(
            f"the output does not fit the columns of topic {info.name!r}",
            where=f"write({info.name!r})",
            expected=describe(info.schema),
            next_step=f"the flow gives {describe(schema)}; select() what the topic has, or "
            "write to another topic",
        )


Rows: TypeAlias = pa.Table | Iterable[pa.Table]
"""Rows for a topic: a table, or several, one after the other, that can be looked at again."""


def commit_staged(
    log: LocalLog,
    outputs: Sequence[tuple[TopicInfo, Rows]],
    work: StagedWork[T],
    *,
    durability: Durability | None = None,
) -> T:
    """Stage the outputs, then run ``work`` in one transaction with them; ``work`` applies them.

    A segment may be removed between the two, when a partition lost its last event: then both are done again.
    """
    with log.store.segments.held():
        return _staged(log, outputs, work, durability)


def _staged(
    log: LocalLog,
    outputs: Sequence[tuple[TopicInfo, Rows]],
    work: StagedWork[T],
    durability: Durability | None,
) -> T:
    for _ in range(STAGE_ATTEMPTS_MAX):
        staged = [
            log.stage(info, table, durability=durability)
            for info, rows in outputs
            for table in ([rows] if isinstance(rows, pa.Table) else rows)
            if table.num_rows
        ]
        reach("flow.staged")
        try:
            return log.store.write(functools.partial(work, staged=staged), durability=durability)
        except SegmentGone:
            continue
    raise StoreStopped(
        f"segments were removed {STAGE_ATTEMPTS_MAX} times while a flow wrote to them",
        where=", ".join(info.name for info, _ in outputs),
        expected="a segment that stays between staging and commit",
        next_step="give the output topic a longer retention",
    )
