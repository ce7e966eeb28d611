"""A flow, or one unit of it, that this process has claimed: what is open while it streams, and how it is given back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice

from millstream.engines.local import flow_catalog
from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_delivery import Delivery, Writer, refuse_undelivered
from millstream.engines.local.flow_file_intake import FILES_ID, FileIntake
from millstream.engines.local.flow_files import (
    drop_outgoing,
    options_of,
    outgoing_folder,
    publish_all,
)
from millstream.engines.local.flow_intake import Intake, Intakes, Share, TopicIntake, places
from millstream.engines.local.flow_lake_intake import LakeIntake
from millstream.engines.local.flow_lakes import lake_writer
from millstream.engines.local.flow_learning import training
from millstream.engines.local.flow_run import Settings, StreamRun
from millstream.engines.local.flow_sql import table_writer
from millstream.engines.local.flow_webhook import webhook_writer
from millstream.engines.local.log import LocalLog
from millstream.flows.branches import sources
from millstream.flows.contract import Stop
from millstream.flows.lakes import LakeSource
from millstream.flows.plan import Plan
from millstream.flows.source import FileSource, Source, TopicSource
from millstream.log.definition import TopicInfo
from millstream.store import Transaction

OpenedSource = tuple[Source, TopicInfo | None]
"""A source, with the topic if it is one."""


def opened_sources(log: LocalLog, plan: Plan) -> list[OpenedSource]:
    """Return the sources of a plan. Raises UnknownTopic."""
    return [
        (source, log.topic(source.topic) if isinstance(source, TopicSource) else None)
        for source in sources(plan)
    ]


def numbered_places(opened: Sequence[OpenedSource]) -> list[tuple[int, int]]:
    """Return the topic and the partition in it by the number of each partition."""
    return places([(info.id, info.partitions) if info else (FILES_ID, 1) for _, info in opened])


class OpenStream:
    """A claim, and the run that goes on from it. Belongs to one thread."""

    def __init__(
        self,
        log: LocalLog,
        plan: Plan,
        opened: Sequence[OpenedSource],
        claim: Claim,
        settings: Settings,
        share: Share | None = None,
    ) -> None:
        """Do what the last commit left to do outside the store, and load its state; an error gives the claim back."""
        self._store = log.store
        self._claim = claim
        self._table: Writer | None = None
        self._intakes: list[Intake] = []
        self._learning = ExitStack()
        try:
            publish_all(claim.files, options_of(plan))
            drop_outgoing(outgoing_folder(log.store.path, claim.flow_id))
            self._table = resumed_table(log, plan, claim.name, claim.delivery, stop=settings.stop)
            at = iter(range(sum(1 if info is None else info.partitions for _, info in opened)))
            self._intakes += [
                _intake(log, source, info, claim, at, settings, share) for source, info in opened
            ]
            self.run = StreamRun(
                log,
                plan,
                # What a unit writes beside its output has the name of the flow.
                replace(claim, name=settings.name),
                Intakes(self._intakes),
                settings,
                table=self._table,
                trainers=self._learning.enter_context(training(log.store, plan, settings.name)),
            )
        except BaseException:
            self.close()
            raise

    def close(self, note: Callable[[Transaction], None] | None = None) -> None:
        """Give the claim back; ``note`` runs in the same transaction.

        After a crash of the process the next one finds that the owner is dead.
        """
        table, claim = self._table, self._claim
        self._learning.close()
        for intake in self._intakes:
            intake.close()
        delivered = 0 if table is None else table.delivered

        def work(tx: Transaction) -> None:
            flow_catalog.release(tx, claim, delivered=delivered)
            if note is not None:
                note(tx)

        try:
            if table is not None:
                table.close()
        finally:
            self._store.write(work)


def resumed_table(
    log: LocalLog, plan: Plan, name: str, delivery: Delivery | None, *, stop: Stop | None = None
) -> Writer | None:
    """Connect to the table or webhook that the plan ends in, if any, and deliver what the last commit has."""
    store = flow_catalog.store_identity(log.store)
    table: Writer | None = table_writer(plan, store=store, flow=name)
    table = table or lake_writer(plan, store=store, flow=name)
    table = table or webhook_writer(log, plan, store=store, flow=name, stop=stop)
    if table is None:
        refuse_undelivered(delivery)
        return None
    try:
        table.resume(delivery)
    except BaseException:
        table.close()
        raise
    return table


def _intake(
    log: LocalLog,
    source: Source,
    info: TopicInfo | None,
    claim: Claim,
    numbers: Iterator[int],
    settings: Settings,
    share: Share | None,
) -> Intake:
    """Return where a source is read; ``numbers`` are those of the partitions that come next."""
    bounded = settings.bounded
    if info is None:
        number = next(numbers)
        if isinstance(source, LakeSource):
            at = claim.positions.get(number)
            first = 0 if at is None else at.next_offset
            return LakeIntake(source, claim.inputs, bounded=bounded, next_offset=first)
        assert isinstance(source, FileSource), "tables were refused"
        return FileIntake(
            source,
            claim.inputs,
            bounded=bounded,
            takes_unsettled=settings.closes,
            clock=log.store.clock,
        )
    offsets = {
        partition: claim.positions[number].next_offset
        for partition, number in enumerate(islice(numbers, info.partitions))
        if number in claim.positions
    }
    assert isinstance(source, TopicSource), "only topics have partitions"
    skips = source.on_deleted == "skip"
    return TopicIntake(
        log, info, offsets=offsets, bounded=bounded, share=share, skips_deleted=skips
    )
