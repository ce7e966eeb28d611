"""One run of a stream: from a claim on the flow to its release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from millstream.engines.local import flow_catalog
from millstream.engines.local.append import Staged
from millstream.engines.local.delays import PendingDelays, record_delays
from millstream.engines.local.flow_calls import calls_of, enqueue
from millstream.engines.local.flow_catalog import Claim, Position, Step
from millstream.engines.local.flow_delivery import Delivery, Writer
from millstream.engines.local.flow_errors import step_errors
from millstream.engines.local.flow_expression import polars_schema
from millstream.engines.local.flow_files import Written, outgoing_folder, write_file
from millstream.engines.local.flow_intake import Intakes, Taken
from millstream.engines.local.flow_learning import Trainers
from millstream.engines.local.flow_load import LoadMeter, StoredFigures, plan_checksum
from millstream.engines.local.flow_sinks import commit_staged, open_dead_letters, open_topic
from millstream.engines.local.flow_steps import to_arrow
from millstream.engines.local.flow_tally import Tally
from millstream.engines.local.flow_windowing import Computed, StagedStream, StatelessStream
from millstream.engines.local.log import LocalLog
from millstream.flows.branches import is_stateful
from millstream.flows.contract import Stop
from millstream.flows.merging import JoinSource
from millstream.flows.plan import Plan
from millstream.flows.report import Progress, ProgressListener, RunReport
from millstream.flows.source import FileSink, TopicSink
from millstream.flows.watermark import TIME_MIN, counting_partitions
from millstream.log.definition import TopicInfo
from millstream.primitives.clock import Clock
from millstream.primitives.durability import Durability
from millstream.primitives.histogram import PHASES, Histogram
from millstream.primitives.identity import new_id
from millstream.primitives.telemetry import reach
from millstream.store import Transaction

STOP_CHECK_S = 0.1
"""How often a waiting stream looks whether it should stop."""

IDLE_CHECK_S = 0.01
"""How often, at most, an idle stream looks whether a window is due."""


class Quiet:
    """How long each partition has shown nothing, by the clock on the wall. Only for a stream that was told to ask."""

    def __init__(self, idle_us: int, clock: Clock) -> None:
        """Take every partition for awake now."""
        self._idle_s = idle_us / 1e6
        self._clock = clock
        self._begun_s = clock.monotonic_s()
        self._seen_s: dict[int, float] = {}

    def idle(self, taken: list[Taken], ends: Mapping[int, int]) -> frozenset[int]:
        """Note the partitions that have events, and return those that have had none for so long that they are idle."""
        now_s = self._clock.monotonic_s()
        self._seen_s.update((batch.partition, now_s) for batch in taken)
        return frozenset(n for n in ends if now_s - self._last_s(n) >= self._idle_s)

    def quiet_us(self, ends: Mapping[int, int]) -> int:
        """Return how long no partition has shown an event, in microseconds."""
        last_s = max(map(self._last_s, ends), default=self._begun_s)
        return round((self._clock.monotonic_s() - last_s) * 1e6)

    def wait_s(self, ends: Mapping[int, int], wait_us: int | None) -> float | None:
        """Return after how many seconds the next partition is idle or, when all are, the next window is due."""
        now_s = self._clock.monotonic_s()
        left = [self._last_s(n) + self._idle_s - now_s for n in ends]
        left = [seconds for seconds in left if seconds > 0]
        if left:
            return max(min(left), IDLE_CHECK_S)
        return None if wait_us is None else max(wait_us / 1e6, IDLE_CHECK_S)

    def _last_s(self, partition: int) -> float:
        return self._seen_s.get(partition, self._begun_s)


@dataclass(frozen=True)
class Settings:
    """How a flow is streamed."""

    name: str
    batch_events: int
    idle_us: int | None
    bounded: bool
    """Whether it ends at what was there at the beginning."""
    closes: bool
    """Whether it then closes what is open, because nothing more can come."""
    stop: Stop | None = None


@dataclass
class _Totals:
    rows_in: int = 0
    rows_out: int = 0
    late: int = 0
    untimed: int = 0
    batches: int = 0
    full: int = 0
    """Micro-batches with as many events as they may have."""


@dataclass(frozen=True)
class Turn:
    """What a stream did when it had its turn."""

    is_busy: bool = False
    """There were events, and there may be more."""
    is_ended: bool = False
    """A bounded run is at its end, and what it closes is closed."""
    wait_s: float | None = None
    """After so long there is something to do though no event comes; None if there is not."""


class StreamRun:
    """A stream while it runs. Belongs to one thread."""

    def __init__(
        self,
        log: LocalLog,
        plan: Plan,
        claim: Claim,
        intake: Intakes,
        settings: Settings,
        *,
        table: Writer | None = None,
        trainers: Trainers | None = None,
    ) -> None:
        """Make missing output topics and load the state."""
        self._log = log
        self._clock = log.store.clock
        self._claim = claim
        self._batch_events = settings.batch_events
        self._schema = plan.schema
        sink = plan.sink
        self._sink = open_topic(log, sink, plan.schema) if isinstance(sink, TopicSink) else None
        self._directory = sink if isinstance(sink, FileSink) else None
        self._table = table
        self._trainers = trainers or Trainers()
        self._calls = plan.calls
        self._tally = Tally(plan, self._clock.now_us)
        self._plan_checksum = plan_checksum(plan)
        self._compute = (
            StagedStream(
                plan, claim, log.store.path, self._tally, self._clock.now_us, self._trainers
            )
            if is_stateful(plan)
            else StatelessStream(plan, self._tally)
        )
        self._dead_sink = open_dead_letters(log, plan, claim.name)
        self._late_sinks = self._open_late_sinks(plan)
        self._positions = dict(claim.positions)
        self._intake = intake
        self._closes = settings.closes
        idle_us = None if intake.bounded else settings.idle_us
        self._quiet = None if idle_us is None else Quiet(idle_us, self._clock)
        self._totals = _Totals()
        self._delays = {phase: Histogram() for phase in PHASES}
        self._pending = PendingDelays(self._clock)
        self._started_us = self._clock.now_us()
        self._started_s = self._clock.monotonic_s()
        self._load = LoadMeter(self._clock)
        reach("flow.claimed")

    def _open_late_sinks(self, plan: Plan) -> list[TopicInfo]:
        """Return the topics of late events, one for each side of the first stage, if the flow keeps them."""
        source, step = plan.source, plan.first_stateful()
        if isinstance(source, JoinSource):
            keeps = source.time is not None and source.time.keep_late
            names = [f"{self._claim.name}.late_{side}" for side in ("left", "right")]
        else:
            keeps = step is not None and step.keep_late
            names = [f"{self._claim.name}.late"]
        if not keeps:
            return []
        return [
            open_topic(self._log, TopicSink(name), schema)
            for name, schema in zip(names, self._compute.late_schemas, strict=True)
        ]

    def loop(self, *, stop: Stop | None, progress: ProgressListener | None) -> None:
        """Process micro-batches until the end, or until told to stop."""
        rows_total = self.backlog()
        with self._log.store.waiter(*self.channels) as waiter:
            while not self._owes and (stop is None or not stop.is_set()):
                waiter.arm()
                turn = self.turn()
                if turn.is_ended:
                    break
                if not turn.is_busy:
                    waits = [turn.wait_s, None if stop is None else STOP_CHECK_S]
                    waiter.wait(min((wait for wait in waits if wait is not None), default=None))
                elif progress is not None:
                    progress(Progress(self._totals.rows_in, rows_total))
                if not self._owes:
                    self.fire_clock()
        self.finish()

    @property
    def channels(self) -> list[str]:
        """What is woken when there is more to read."""
        return self._intake.channels

    @property
    def rows_in(self) -> int:
        """How many rows were read so far."""
        return self._totals.rows_in

    def backlog(self) -> int | None:
        """Return how many events a bounded run has left to read; None if that is not known."""
        return self._intake.backlog(self._intake.ends()) if self._intake.bounded else None

    def turn(self) -> Turn:
        """Process one micro-batch; without events do what an idle stream does. A bounded run is over then."""
        with self._load.spending("read"):
            ends = self._intake.ends()
            taken = self._intake.take(self._batch_events, ends)
        if taken:
            self._process(taken, ends)
            return Turn(is_busy=True)
        if self._intake.bounded:
            if self._closes:
                self._close_all()
            else:
                self.fire_clock()
            return Turn(is_ended=True)
        self._store_delays(only_due=True)
        waits = [self._pass_idle(ends), self._until_clock_s(), self._pending.wait_s]
        return Turn(wait_s=min((wait for wait in waits if wait is not None), default=None))

    def finish(self) -> None:
        """Store what only the next commit would have stored."""
        self._keep_models()
        self._store_delays()

    def _store_delays(self, *, only_due: bool = False) -> None:
        """Store the delays that no commit has stored; of an idle stream, when they are due."""
        if self._pending.wait_s is None or (only_due and not self._pending.is_due):
            return
        taken = self._pending.taken({})
        self._log.store.write(
            lambda tx: record_delays(tx, "stream", self._claim.name, taken),
            durability=Durability.PROCESS if only_due else None,
        )

    @property
    def _owes(self) -> bool:
        """Whether a stop came while rows were delivered: another commit would drop the rest of them."""
        return self._table is not None and self._table.owes

    def _process(self, taken: list[Taken], ends: dict[int, int]) -> None:
        reach("flow.read")
        started_us, started_s = self._clock.now_us(), self._clock.monotonic_s()
        with step_errors(f"flow {self._claim.name!r}"), self._load.spending("process"):
            computed = self._compute.process(
                taken,
                next_offsets=self._intake.next_offsets,
                ends=ends,
                bounded=self._closes,
                idle=frozenset() if self._quiet is None else self._quiet.idle(taken, ends),
            )
        for batch in taken:
            seen_us = computed.seen_us.get(batch.partition, TIME_MIN)
            self._positions[batch.partition] = Position(batch.next_offset, seen_us)
        rows = sum(batch.frame.height for batch in taken)
        self._load.add(rows)
        self._totals.full += rows > self._batch_events - len(taken)
        delays = {phase: Histogram() for phase in PHASES}
        for batch in taken:
            delays["start_wait"].record_many(started_us - batch.appended_us)
        delays["source_wait"] = computed.source_wait
        reach("flow.computed")
        ended_s = self._clock.monotonic_s()
        if rows:
            delays["process"].record(round((ended_s - started_s) * 1e6), rows)
        changed = {batch.partition: self._positions[batch.partition] for batch in taken}
        self._commit(computed, changed, rows, delays)
        if rows:
            waited_us = round((self._clock.monotonic_s() - ended_s) * 1e6)
            published = Histogram()
            published.record(waited_us, rows)
            self._delays["publish"].merge(published)
            # The time a commit takes is known only after it, so a later one stores it.
            self._pending.add({"publish": published})

    def _pass_idle(self, ends: dict[int, int]) -> float | None:
        """Close what only quiet partitions hold open; return after how many seconds there may be more, if ever."""
        if self._quiet is None:
            return None
        counting = counting_partitions(
            next_offsets=self._intake.next_offsets, ends=ends, bounded=False
        )
        with step_errors(f"flow {self._claim.name!r}"), self._load.spending("process"):
            idle = self._compute.close_idle(
                idle=self._quiet.idle([], ends) & counting,
                counting=counting,
                quiet_us=self._quiet.quiet_us(ends),
            )
        if idle.computed is not None:
            self._commit(idle.computed, {}, 0, {})
        return self._quiet.wait_s(ends, idle.wait_us)

    def _until_clock_s(self) -> float | None:
        """Return in how many seconds a timer of the clock is due, if there is one."""
        due_us = self._compute.clock_due_us
        return None if due_us is None else max(due_us - self._clock.now_us(), 0) / 1e6

    def fire_clock(self) -> None:
        """Call the timers of the clock that are due; a run that closes everything calls all of them at its end."""
        if self._closes:
            return
        due_us, now_us = self._compute.clock_due_us, self._clock.now_us()
        if due_us is not None and due_us <= now_us:
            with step_errors(f"flow {self._claim.name!r}"), self._load.spending("process"):
                computed = self._compute.fire_clock(now_us)
            self._commit(computed, {}, 0, {})

    def _close_all(self) -> None:
        """Nothing more can come: close every window."""
        reach("flow.closing")
        with step_errors(f"flow {self._claim.name!r}"), self._load.spending("process"):
            computed = self._compute.close_all()
            has_learned = self._trainers.finish()
        if computed is not None or has_learned:
            self._commit(computed or self._nothing(), {}, 0, {})

    def _keep_models(self) -> None:
        """The stream was stopped: what was learned becomes a version."""
        if self._trainers.keep():
            self._commit(self._nothing(), {}, 0, {})

    def _nothing(self) -> Computed:
        return Computed(pl.DataFrame(schema=polars_schema(self._schema)))

    def _commit(
        self,
        computed: Computed,
        positions: dict[int, Position],
        rows_in: int,
        delays: dict[str, Histogram],
    ) -> None:
        assert not self._owes, "this commit would drop rows that are not delivered yet"
        output = to_arrow(computed.output, self._schema)
        outputs = [] if self._sink is None else [(self._sink, output)]
        with step_errors(f"flow {self._claim.name!r}"):
            messages = calls_of(self._calls, output, self._clock.now_us())
        late = zip(self._late_sinks, computed.late_rows, self._compute.late_schemas, strict=False)
        outputs += [(to, to_arrow(rows, kind)) for to, rows, kind in late if rows is not None]
        if self._dead_sink is not None and (letters := self._tally.failures.take()) is not None:
            outputs.append((self._dead_sink, letters))
        files = self._written(computed)
        # What the database refuses is refused here, while nothing of the micro-batch is stored.
        packed = None if self._table is None else self._table.write(output)
        step = Step(
            positions={self._intake.places[number]: at for number, at in positions.items()},
            closed_until_us=computed.closed_until_us,
            states=computed.states,
            rows_in=rows_in,
            rows_out=computed.output.height,
            late=computed.late,
            untimed=computed.untimed,
            files=files,
            inputs=tuple(self._intake.changed) if positions else (),
            packed=packed,
            figures=self._figures(computed, rows_in).to_bytes(),
        )
        recorded = self._pending.taken(delays) if self._pending.is_due else None
        with step_errors(f"flow {self._claim.name!r}"):
            taught = self._trainers.taught()

        def work(tx: Transaction, staged: list[Staged]) -> Delivery | None:
            delivery = flow_catalog.advance(tx, self._claim, step)
            for one in staged:
                one.apply(tx)
            enqueue(tx, messages)
            for trainer, learned in taught:
                trainer.store(tx, learned)
            if recorded:
                record_delays(tx, "stream", self._claim.name, recorded)
            reach("flow.applied")
            return delivery

        # A file that has its name, or a row that was delivered, cannot be taken back: what led to it must not be lost.
        durability = Durability.DISK if files or packed else None
        with self._load.spending("commit"):
            delivery = commit_staged(self._log, outputs, work, durability=durability)
        reach("flow.committed")
        with self._load.spending("commit"):
            for file in files:
                file.publish()
            if self._table is not None and delivery is not None:
                self._table.deliver(delivery)
        if recorded is None:
            self._pending.add(delays)
        self._add(step, delays)

    def _figures(self, computed: Computed, rows_in: int) -> StoredFigures:
        """Return how the run is doing once what was computed is committed."""
        totals = self._totals
        return StoredFigures(
            plan=self._plan_checksum,
            started_us=self._started_us,
            committed_us=self._clock.now_us(),
            rows_in=totals.rows_in + rows_in,
            rows_out=totals.rows_out + computed.output.height,
            late=totals.late + computed.late,
            untimed=totals.untimed + computed.untimed,
            failed=self._failed,
            batches=totals.batches + 1,
            full=totals.full,
            batch_events=self._batch_events,
            load=self._load.whole(),
            recent=self._load.recent(),
            steps=self._tally.told(),
        )

    @property
    def _failed(self) -> int:
        return self._tally.failures.count + (0 if self._table is None else self._table.failed)

    def _written(self, computed: Computed) -> tuple[Written, ...]:
        """Write the output to a file of its own, if the flow ends in a directory."""
        if self._directory is None or not computed.output.height:
            return ()
        frame = computed.output.select(self._schema.names).lazy()
        with step_errors(f"flow {self._claim.name!r}"):
            outgoing = outgoing_folder(self._log.store.path, self._claim.flow_id)
            written, _ = write_file(self._directory, frame, new_id(self._clock), outgoing=outgoing)
            return (written,)

    def _add(self, step: Step, delays: dict[str, Histogram]) -> None:
        totals = self._totals
        totals.rows_in += step.rows_in
        totals.rows_out += step.rows_out
        totals.late += step.late
        totals.untimed += step.untimed
        totals.batches += 1
        for phase, histogram in delays.items():
            self._delays[phase].merge(histogram)

    def report(self) -> RunReport:
        """Return the figures of the run."""
        watermark_us = self._compute.closed_until_us
        return RunReport(
            flow=self._claim.name,
            mode="stream",
            rows_in=self._totals.rows_in,
            rows_out=self._totals.rows_out,
            late=self._totals.late,
            untimed=self._totals.untimed,
            failed=self._failed,
            batches=self._totals.batches,
            started_us=self._started_us,
            duration_us=round((self._clock.monotonic_s() - self._started_s) * 1e6),
            watermark_us=None if watermark_us == TIME_MIN else watermark_us,
            delays=self._delays,
            models=self._trainers.figures,
            steps=self._tally.figures(),
        )
