"""A worker that runs several tasks at once in one process: in threads, or as coroutines.

    join ─> [ exchange: results + acknowledgements + as many tasks as there are free places, one commit ] ─> start them
                 ^                                                                                        │
                 └──────── sleep until a task ends, is sent, or comes due; or until others may have died ──┘

All are held under one lease. When the process dies nobody can say which task did it, so none is charged, and each is
run alone from then on: the worker starts such a task when no other runs, and claims none beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence

from millstream.engines.local.task_link import LocalAttemptLink
from millstream.engines.local.task_workers import report_of
from millstream.engines.local.tasks import LocalTasks
from millstream.engines.local.worker import WorkerSettings
from millstream.engines.local.worker_dependencies import WorkerDependencies
from millstream.engines.local.worker_execute import Executor
from millstream.engines.local.worker_hand import Hand
from millstream.engines.local.worker_keeper import PASSING, LeaseKeeper, still_holds
from millstream.engines.local.worker_kind import PoolKind
from millstream.engines.local.worker_limits import LimitKeeper
from millstream.engines.local.worker_pool import AsyncPool, Pool, ThreadPool
from millstream.engines.local.worker_reports import Demand
from millstream.primitives.backoff import Chance
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.telemetry import reach
from millstream.store.runmark import SEVERAL, RunMark
from millstream.tasks.batch import works_of
from millstream.tasks.limits import CONCURRENCY_MAX, RECOVERY_TICK_US
from millstream.tasks.message import Claimed, Completion, Exchange, Lease, Revocation, Work
from millstream.tasks.registry import TaskRegistry
from millstream.tasks.workers import Order, OrderKind, WorkerReport

_MICROSECONDS = 1_000_000


class ManyWorker:
    """Runs up to ``concurrency`` tasks beside each other. ``run`` in one thread; ``stop`` and ``abandon`` in any."""

    def __init__(
        self,
        engine: LocalTasks,
        registry: TaskRegistry,
        settings: WorkerSettings,
        *,
        kind: PoolKind,
        concurrency: int,
        chance: Chance,
        limits: LimitKeeper | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing happens before ``run``; ``limits`` and ``report`` as of ``Worker``.

        Raises ConfigurationError for a concurrency out of range.
        """
        self._report = report
        if not 1 <= concurrency <= CONCURRENCY_MAX:
            raise ConfigurationError(
                f"{concurrency} tasks at once", expected=f"1 to {CONCURRENCY_MAX:,}"
            )
        self._engine = engine
        self._settings = settings
        self._clock = engine.store.clock
        self._kind = kind
        self._concurrency = concurrency
        self._dependencies = WorkerDependencies(has_loop=kind is PoolKind.ASYNC)
        self._executor = Executor(
            registry,
            clock=self._clock,
            chance=chance,
            run_coroutine=asyncio.run,
            link=LocalAttemptLink(engine, lambda: self._lease),
            limits=limits,
            dependencies=self._dependencies,
        )
        self._limits = limits
        self._lock = threading.Lock()
        self._running: dict[int, tuple[Work, int]] = {}
        """What runs, and since when."""
        self._finished: list[Completion] = []
        self._committing = threading.Lock()
        """Held by whoever drains, until what it took is committed: a lease that ends meanwhile would return that."""
        self._alone: Work = ()
        self._stopping = threading.Event()
        self._waiter = engine.store.waiter(*(f"tasks:{queue}" for queue in settings.queues))
        self._looked_s = self._clock.monotonic_s()
        self._lease: Lease | None = None
        self._mark: RunMark | None = None
        self._pool: Pool | None = None
        self.exit: Callable[[], None] | None = None
        """Ends this process at once. Not used: a coroutine is cancelled, and a thread cannot be ended alone."""
        self.on_order: Callable[[Order], None] | None = None
        """Obeys what is asked of the node; None where nobody can."""

    def run(self) -> None:
        """Work until stopped, or with ``burst`` until there is nothing left. See ``Worker.run``."""
        try:
            self._run()
        finally:
            self._dependencies.close()

    def _run(self) -> None:
        self._engine.recover()
        lease = self._join()
        signals, process = self._executor.registry.signals, self._settings.process
        signals.worker_ready.send(process)
        pool_of = AsyncPool if self._kind is PoolKind.ASYNC else ThreadPool
        pool = self._pool = pool_of(self._executor, self._concurrency)
        # Nothing ever waits behind a running task here, so the keeper has no hand to look at.
        keeper = LeaseKeeper(
            self._engine,
            Hand(self._clock),
            lease,
            self._settings.lease_us,
            on_revoked=self._end_revoked,
            on_order=self._pass_on,
            report=self.report,
        )
        try:
            lease = self._serve(lease, keeper, pool)
            pool.close()
            signals.worker_shutdown.send(process)
        finally:
            keeper.stop()
            if self._limits is not None:
                self._limits.stop()
            self._waiter.close()
            if self._mark is not None:
                self._mark.retire()
        for order in self._engine.leave(lease):
            self._pass_on(order)

    def stop(self) -> None:
        """Finish what runs, commit, hand back the rest, and return from ``run``. Any thread."""
        self._stopping.set()
        self._waiter.nudge()

    def abandon(self) -> None:
        """Commit what is finished; hand back all else, uncharged. The process must end next."""
        self._stopping.set()
        # Never freed: what the other thread has taken is committed first, and nothing more is claimed.
        self._committing.acquire()
        lease = self._lease
        if lease is None:
            return
        with self._lock:  # Nothing more is started, see ``_begin``.
            running = [task for work, _ in self._running.values() for task in work]
            finished, self._finished = self._finished, []
        finished += self._executor.cut_short(running, finished)
        if finished:
            self._engine.exchange(lease, finished, want=0)
        self._engine.leave(lease)

    def report(self) -> WorkerReport:
        """Return what it does now, and what it has done. Any thread."""
        with self._lock:
            running = list(self._running.values())
            waits = bool(self._alone) and not running
        return report_of(running, reserved=int(waits), tally=self._engine.tally)

    def demand(self) -> Demand:
        """Return what waits in its queues, and whether it runs a task. Any thread."""
        with self._lock:
            is_busy = bool(self._running)
        return Demand(waiting=self._engine.waiting(self._settings.queues), is_busy=is_busy)

    def _pass_on(self, order: Order) -> None:
        if self.on_order is not None and order.kind is not OrderKind.REPORT:
            self.on_order(order)

    def _join(self) -> Lease:
        settings = self._settings
        self._lease = self._engine.join(
            settings.queues,
            lease_us=settings.lease_us,
            batches=self._executor.registry.batches(),
            profile=settings.profile,
        )
        self._mark = self._engine.mark(self._lease, lease_us=settings.lease_us)
        self._mark.begin(SEVERAL)
        if self._limits is not None:
            self._limits.keep_for(self._mark, None, settings.lease_us)
        return self._lease

    def _serve(self, lease: Lease, keeper: LeaseKeeper, pool: Pool) -> Lease:
        """Work until it is time to end; return the lease that is held then."""
        while True:
            keeper.refuse_failed()
            stopping = self._stopping.is_set()
            self._waiter.arm()
            finished = self._has_finished
            room = 0 if stopping or self._alone else self._room()
            ready = self._engine.ready(self._settings.queues)
            if finished or (room and ready.now):
                exchange = self._exchange(lease, room)
                if exchange is None:
                    continue
                if exchange.evicted:
                    # What runs here belongs to others now; its completions will be refused and counted.
                    reach("task.evicted")
                    self._alone = ()
                    lease = self._join()
                    keeper.watch(lease)
                # After a pause of a whole lease, what was claimed may be in other hands: ask before it is started.
                if still_holds(keeper, self._stopping):
                    self._start(exchange.claimed, pool)
                self._start_alone(pool)
                self._look_for_the_dead()
                if exchange.claimed or exchange.evicted:
                    continue
            if self._is_over(stopping=stopping):
                return lease
            self._look_for_the_dead()
            self._waiter.wait(self._rest_us(ready.next_due_us if room else None) / _MICROSECONDS)

    def _exchange(self, lease: Lease, room: int) -> Exchange | None:
        """Commit what is finished and claim; see ``Worker``: None when the store has no room."""
        with self._committing:
            finished = self._drain()
            try:
                return self._engine.exchange(lease, finished, want=room)
            except PASSING as error:
                with self._lock:
                    self._finished[:0] = finished
                if self._stopping.is_set():
                    raise
                self._report(f"{len(finished)} results wait for their commit: {error}")
        self._stopping.wait(RECOVERY_TICK_US / _MICROSECONDS)
        return None

    def _is_over(self, *, stopping: bool) -> bool:
        with self._lock:
            if self._running or self._finished:
                return False
        if stopping:
            return True  # What waits to run alone goes back with the lease.
        return (
            not self._alone and self._settings.burst and self._engine.is_idle(self._settings.queues)
        )

    def _start(self, claimed: Sequence[Claimed], pool: Pool) -> None:
        for work in works_of(claimed):
            if work[0].alone and self._executor.runs_again(work[0]):
                self._alone = work  # It was claimed as the only one.
            else:
                self._begin(work, pool)

    def _start_alone(self, pool: Pool) -> None:
        """Start the task that must run alone once no other runs; it blocks claims until it has ended."""
        work = self._alone
        if work and not self._running and not self._stopping.is_set():
            self._begin(work, pool)

    def _begin(self, work: Work, pool: Pool) -> None:
        with self._lock:
            if self._stopping.is_set():
                return  # It goes back with the lease.
            self._running[id(work)] = (work, self._clock.now_us())
        pool.start(work, lambda completions: self._end(work, completions))

    def _end(self, work: Work, completions: Sequence[Completion]) -> None:
        """Keep the ends of attempts for the next commit. Any thread."""
        with self._lock:
            del self._running[id(work)]
            self._finished += completions
            if self._alone is work:
                self._alone = ()
        self._waiter.nudge()

    @property
    def _has_finished(self) -> bool:
        with self._lock:
            return bool(self._finished)

    def _drain(self) -> list[Completion]:
        with self._lock:
            finished, self._finished = self._finished, []
            return finished

    def _room(self) -> int:
        with self._lock:
            return self._concurrency - len(self._running)

    def _end_revoked(self, revocation: Revocation) -> None:
        pool = self._pool
        if pool is None or not revocation.terminate:
            return
        with self._lock:
            # A batch goes on: its other calls were not revoked.
            works = [work for work, _ in self._running.values() if len(work) == 1]
            meant = [work for work in works if work[0].seq == revocation.seq]
        for work in meant:
            pool.cancel(work)

    def _look_for_the_dead(self) -> None:
        now_s = self._clock.monotonic_s()
        if (now_s - self._looked_s) * _MICROSECONDS >= RECOVERY_TICK_US:
            self._looked_s = now_s
            with contextlib.suppress(*PASSING):  # They are found at the next look.
                self._engine.recover()

    def _rest_us(self, next_due_us: int | None) -> int:
        if next_due_us is None:
            return RECOVERY_TICK_US
        return max(0, min(RECOVERY_TICK_US, next_due_us - self._clock.now_us()))
