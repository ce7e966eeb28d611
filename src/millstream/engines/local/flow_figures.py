"""How a stream is doing, read from the catalog beside it: what ``flow_load`` has stored, and what waits to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from millstream.engines.local.flow_file_intake import FILES_ID
from millstream.engines.local.flow_load import StoredFigures, plan_checksum
from millstream.engines.local.flow_open import opened_sources
from millstream.engines.local.log import LocalLog
from millstream.flows.figures import (
    FlowFigures,
    Load,
    PartitionFigures,
    StepFigures,
    merged_steps,
    step_figures,
    step_places,
)
from millstream.flows.plan import Plan
from millstream.primitives.codec import decode
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schema import us_datetime
from millstream.store import Snapshot

Position = tuple[int, int | None]
"""What is read next, and the greatest event time that was seen."""


@dataclass(frozen=True)
class _Unit:
    """What the catalog has of a flow, or of one unit of it."""

    owner: str | None
    closed_until_us: int | None
    stored: StoredFigures
    positions: dict[tuple[int, int], Position]


def flow_figures(log: LocalLog, plan: Plan, name: str) -> FlowFigures:
    """Return how a stream is doing; see ``Flow.figures``. Raises ConfigurationError if it never committed."""
    store = log.store
    with store.read() as snapshot:
        units = _units(snapshot, name)
    if not units:
        raise ConfigurationError(
            f"there are no figures of flow {name!r}",
            where=str(store.path),
            expected="a flow that was streamed, and has committed a micro-batch",
            next_step="stream it: flow.stream(), or `millstream stream`; a batch has its figures in its report",
        )
    stored = [unit.stored for unit in units]
    closed = [unit.closed_until_us for unit in units]
    known = [us for us in closed if us is not None]
    owners = {unit.owner for unit in units if unit.owner is not None and store.is_alive(unit.owner)}
    return FlowFigures(
        flow=name,
        asked=us_datetime(store.clock.now_us()),
        is_running=bool(owners),
        started=us_datetime(min(one.started_us for one in stored)),
        committed=us_datetime(max(one.committed_us for one in stored)),
        rows_in=sum(one.rows_in for one in stored),
        rows_out=sum(one.rows_out for one in stored),
        late=sum(one.late for one in stored),
        untimed=sum(one.untimed for one in stored),
        failed=sum(one.failed for one in stored),
        batches=sum(one.batches for one in stored),
        full=sum(one.full for one in stored),
        batch_events=max(one.batch_events for one in stored),
        load=_together([one.load for one in stored], len(owners)),
        recent=_together([one.recent for one in stored], len(owners)),
        steps=_steps(plan, stored),
        partitions=_partitions(log, plan, units),
        watermark=us_datetime(min(known)) if len(known) == len(closed) else None,
        changed=any(one.plan != plan_checksum(plan) for one in stored),
    )


def _units(snapshot: Snapshot, name: str) -> list[_Unit]:
    """Return what is stored of a flow, or of each unit if it is shared; nothing if it has no figures."""
    found = snapshot.run("flows/get", (name,))
    if not found:
        return []
    flow_id = found[0][0]
    ids = [unit_id for _, _, unit_id, *_ in snapshot.run("flows/units", (flow_id,))] or [flow_id]
    units = []
    for unit_id in ids:
        [[owner, closed_until_us, data]] = snapshot.run("flows/figures", (unit_id,))
        if data is not None:
            positions = {
                (topic_id, partition): (next_offset, seen_us)
                for topic_id, partition, next_offset, seen_us in snapshot.run(
                    "flows/positions", (unit_id,)
                )
            }
            units.append(_Unit(owner, closed_until_us, decode(data, StoredFigures), positions))
    return units


def _together(loads: Sequence[Load], processes: int) -> Load:
    """Return the load of several units: of so many processes, each of which runs some of them in turn."""
    if len(loads) == 1:
        return loads[0]
    count = max(processes, 1)
    return Load(
        elapsed_us=max(load.elapsed_us for load in loads),
        read_us=sum(load.read_us for load in loads) // count,
        process_us=sum(load.process_us for load in loads) // count,
        commit_us=sum(load.commit_us for load in loads) // count,
        rows_in=sum(load.rows_in for load in loads),
    )


def _steps(plan: Plan, stored: Sequence[StoredFigures]) -> tuple[StepFigures, ...]:
    places, checksum = step_places(plan), plan_checksum(plan)
    return merged_steps(
        [
            step_figures(plan, dict(zip(places, one.steps, strict=True)))
            for one in stored
            if one.plan == checksum
        ]
    )


def _partitions(log: LocalLog, plan: Plan, units: Sequence[_Unit]) -> tuple[PartitionFigures, ...]:
    """Return the partitions of all sources; all that is read of files counts as one."""
    positions = {place: at for unit in units for place, at in unit.positions.items()}
    partitions = []
    for source, info in opened_sources(log, plan):
        topic_id = FILES_ID if info is None else info.id
        for number, (first, end) in enumerate([(0, None)] if info is None else log.ends(info)):
            next_offset, seen_us = positions.get((topic_id, number), (first, None))
            partitions.append(
                PartitionFigures(
                    source=source.text(),
                    partition=number,
                    next_offset=next_offset,
                    waiting=None if end is None else max(end - next_offset, 0),
                    latest=None if seen_us is None else us_datetime(seen_us),
                )
            )
    return tuple(partitions)
