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

from collections.abc import Iterator
from itertools import islice

from millstream.engines.local import flow_catalog
from millstream.engines.local.flow_catalog import Claim
from millstream.engines.local.flow_delivery import Delivery, Writer, refuse_undelivered
from millstream.engines.local.flow_file_intake import FILES_ID, FileIntake
from millstream.engines.local.flow_files import (
    check_place,
    drop_outgoing,
    options_of,
    outgoing_folder,
    publish_all,
)
from millstream.engines.local.flow_intake import Intake, Intakes, TopicIntake, places
from millstream.engines.local.flow_lake_intake import LakeIntake
from millstream.engines.local.flow_lakes import lake_writer
from millstream.engines.local.flow_learning import training
from millstream.engines.local.flow_run import StreamRun
from millstream.engines.local.flow_sql import table_writer
from millstream.engines.local.flow_webhook import webhook_writer
from millstream.engines.local.log import LocalLog
from millstream.engines.local.stream_checks import check_stream
from millstream.flows.branches import sources
from millstream.flows.contract import Stop
from millstream.flows.fingerprint import fingerprint
from millstream.flows.lakes import LakeSource
from millstream.flows.plan import Plan
from millstream.flows.report import ProgressListener, RunReport
from millstream.flows.source import FileSource, Source, TopicSource
from millstream.log.definition import TopicInfo


class LocalStream:
    """Streams plans from topics to topics of one store. Thread-safe; each call is independent."""

    def __init__(self, log: LocalLog) -> None:
        """Read topics from, and write them to, this log."""
        self._log = log

    def check_stream(self, plan: Plan) -> None:
        """Raise PlanError for what cannot run as a stream here, naming the step."""
        check_stream(plan)
        check_place(plan)

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
        opened = [self._opened(source) for source in sources(plan)]
        known = places(
            [(info.id, info.partitions) if info else (FILES_ID, 1) for _, info in opened]
        )
        claim = flow_catalog.claim(self._log.store, name, fingerprint(plan), known)
        table: Writer | None = None
        intakes: list[Intake] = []
        try:
            publish_all(claim.files, options_of(plan))
            drop_outgoing(outgoing_folder(self._log.store.path, claim.flow_id))
            table = self._resumed(plan, name, claim.delivery, stop)
            at = iter(range(len(known)))
            intakes += [
                self._intake(source, info, claim, at, bounded=until == "end")
                for source, info in opened
            ]
            with training(self._log.store, plan, name) as trainers:
                run = StreamRun(
                    self._log,
                    plan,
                    claim,
                    Intakes(intakes),
                    batch_events=batch_events,
                    idle_us=idle_us,
                    table=table,
                    trainers=trainers,
                )
                run.loop(stop=stop, progress=progress)
        finally:
            for intake in intakes:
                intake.close()
            delivered = 0 if table is None else table.delivered
            try:
                if table is not None:
                    table.close()
            finally:
                # After a crash of the process the next one finds that the owner is dead.
                self._log.store.write(
                    lambda tx: flow_catalog.release(tx, claim, delivered=delivered)
                )
        return run.report()

    def _opened(self, source: Source) -> tuple[Source, TopicInfo | None]:
        return source, self._log.topic(source.topic) if isinstance(source, TopicSource) else None

    def _intake(
        self,
        source: Source,
        info: TopicInfo | None,
        claim: Claim,
        numbers: Iterator[int],
        *,
        bounded: bool,
    ) -> Intake:
        """Return where a source is read; ``numbers`` are those of the partitions that come next."""
        if info is None:
            number = next(numbers)
            if isinstance(source, LakeSource):
                at = claim.positions.get(number)
                first = 0 if at is None else at.next_offset
                return LakeIntake(source, claim.inputs, bounded=bounded, next_offset=first)
            assert isinstance(source, FileSource), "tables were refused"
            return FileIntake(source, claim.inputs, bounded=bounded, clock=self._log.store.clock)
        offsets = {
            partition: claim.positions[number].next_offset
            for partition, number in enumerate(islice(numbers, info.partitions))
            if number in claim.positions
        }
        return TopicIntake(self._log, info, offsets=offsets, bounded=bounded)

    def _resumed(
        self, plan: Plan, name: str, delivery: Delivery | None, stop: Stop | None = None
    ) -> Writer | None:
        """Connect to the table or webhook that the plan ends in, if any, and deliver what the last commit has."""
        store = flow_catalog.store_identity(self._log.store)
        table: Writer | None = table_writer(plan, store=store, flow=name)
        table = table or lake_writer(plan, store=store, flow=name)
        table = table or webhook_writer(self._log, plan, store=store, flow=name, stop=stop)
        if table is None:
            refuse_undelivered(delivery)
            return None
        try:
            table.resume(delivery)
        except BaseException:
            table.close()
            raise
        return table

    def reset(self, name: str, plan: Plan) -> None:
        """Forget the place and state of a flow; its output stays. Raises Fenced while it runs."""
        flow_catalog.refuse_running(self._log.store, name)
        delivery = flow_catalog.undelivered(self._log.store, name)
        if delivery is not None and (table := self._resumed(plan, name, delivery)) is not None:
            table.close()
        flow_catalog.forget(self._log.store, name, plan)
