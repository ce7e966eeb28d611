"""A worker: claims tasks, runs them one after another, commits their ends. One process, one task at a time.

    join ─> [ exchange: results + acknowledgements + next claim, one commit ] ─> run each ─┐
                 ^                                                                         │
                 └── nothing to do: sleep until woken, an ETA comes, or it is time to look for dead workers

A second thread (``LeaseKeeper``) shows the signs of life, and helps when one task of a batch turns out long: it
commits what is finished and hands back what is not started, so that nobody waits behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from millstream.engines.local.process_memory import process_memory_bytes
from millstream.engines.local.task_link import LocalAttemptLink
from millstream.engines.local.task_workers import report_of
from millstream.engines.local.tasks import LocalTasks
from millstream.engines.local.worker_dependencies import WorkerDependencies
from millstream.engines.local.worker_execute import Executor
from millstream.engines.local.worker_hand import Hand
from millstream.engines.local.worker_keeper import PASSING, LeaseKeeper, still_holds
from millstream.engines.local.worker_limits import LimitKeeper, Overtime
from millstream.engines.local.worker_reports import Demand
from millstream.primitives.backoff import Chance
from millstream.primitives.errors import TimeLimitExceeded
from millstream.primitives.telemetry import reach
from millstream.store.runmark import SEVERAL, RunMark
from millstream.tasks.claim_size import ClaimSize
from millstream.tasks.limits import LEASE_US, RECOVERY_TICK_US
from millstream.tasks.message import Claimed, Exchange, Lease, Raised, Revocation, Work
from millstream.tasks.registry import TaskRegistry
from millstream.tasks.signals import WorkerProcess
from millstream.tasks.workers import Order, OrderKind, WorkerProfile, WorkerReport

_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker does; durations in microseconds."""

    queues: tuple[str, ...] = ("default",)
    burst: bool = False
    """Stop when nothing is queued, running or waiting for a retry."""
    lease_us: int = LEASE_US
    tasks_max: int | None = None
    """How many attempts it runs before it ends, so that a new process takes its place; None for no end."""
    memory_bytes_max: int | None = None
    """It ends likewise, between two attempts, when its process takes more memory than this."""
    profile: WorkerProfile = field(default_factory=WorkerProfile)
    """What it says of itself when it joins."""

    @property
    def process(self) -> WorkerProcess:
        """What signals about the worker say of it."""
        return WorkerProcess(node=self.profile.node, pool=self.profile.pool, queues=self.queues)


class Worker:
    """Runs tasks in the thread that calls ``run``. ``stop`` and ``abandon`` may be called from any other."""

    def __init__(
        self,
        engine: LocalTasks,
        registry: TaskRegistry,
        settings: WorkerSettings,
        *,
        chance: Chance,
        limits: LimitKeeper | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing happens before ``run``. ``chance`` is a seeded ``random.Random``: it spreads the retries.

        ``limits`` keeps the limits of attempts; without it they have none. ``report`` is told, a line each time, that
        the store has no room and the worker waits for it.
        """
        self._limits = limits
        self._report = report
        self._engine = engine
        self._settings = settings
        self._clock = engine.store.clock
        self._hand = Hand(self._clock)
        self._size = ClaimSize()
        self._stopping = threading.Event()
        self._runner = asyncio.Runner()
        self._dependencies = WorkerDependencies(has_loop=True)
        self._executor = Executor(
            registry,
            clock=self._clock,
            chance=chance,
            run_coroutine=self._runner.run,
            link=LocalAttemptLink(engine, lambda: self._lease),
            limits=limits,
            dependencies=self._dependencies,
        )
        channels = [f"tasks:{queue}" for queue in settings.queues]
        self._waiter = engine.store.waiter(*channels)
        self._looked_s = self._clock.monotonic_s()
        self._lease: Lease | None = None
        self._mark: RunMark | None = None
        self._left = settings.tasks_max
        self._is_too_large = False
        self.exit: Callable[[], None] | None = None
        """Ends this process at once, for tasks that are terminated. None where the worker is not alone in its process:
        there a revoked task can only end itself."""
        self.on_order: Callable[[Order], None] | None = None
        """Obeys what is asked of the node; None where nobody can."""

    def run(self) -> None:
        """Work until stopped, or with ``burst`` until there is nothing left.

        Whatever is finished is committed and whatever is not started is handed back when this returns. Raises
        StoreError when the store fails; the lease ends then, and other workers take over. What tasks shared is
        closed last; raises what that raises.
        """
        try:
            self._run()
        finally:
            self._close_dependencies()

    def _run(self) -> None:
        self._engine.recover()
        lease = self._join()
        signals, process = self._executor.registry.signals, self._settings.process
        signals.worker_ready.send(process)
        keeper = LeaseKeeper(
            self._engine,
            self._hand,
            lease,
            self._settings.lease_us,
            on_revoked=self._end_revoked,
            on_order=self._pass_on,
            report=self.report,
        )
        try:
            lease = self._serve(lease, keeper)
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

    def _close_dependencies(self) -> None:
        try:
            if self._dependencies.uses_loop:
                self._runner.run(self._dependencies.aclose())
            self._runner.close()
        finally:
            self._dependencies.close()

    @property
    def is_used_up(self) -> bool:
        """Tell whether it has run as many attempts as it may, or its process takes too much memory."""
        return self._is_too_large or (self._left is not None and self._left <= 0)

    def stop(self) -> None:
        """Finish the running task, commit, hand back the rest, and return from ``run``. Any thread."""
        self._stopping.set()
        self._waiter.interrupt()

    def abandon(self) -> None:
        """Commit what is finished; hand back all else, uncharged, the running task too. The process must end next."""
        self._stopping.set()
        # Never freed: what the other thread has taken is committed first, and nothing more is claimed.
        self._hand.committing.acquire()
        lease = self._lease
        if lease is None:
            return
        self._hand.give_up()  # It goes back with the lease; and nothing more is started.
        running = self._hand.running
        finished = self._hand.drain()
        finished += self._executor.cut_short(running, finished)
        if finished:
            self._engine.exchange(lease, finished, want=0)
        self._engine.leave(lease)

    def report(self) -> WorkerReport:
        """Return what it does now, and what it has done. Any thread."""
        running = [self._hand.running_since]
        return report_of(running, reserved=self._hand.pending_count, tally=self._engine.tally)

    def demand(self) -> Demand:
        """Return what waits in its queues, and whether it runs a task. Any thread."""
        return Demand(
            waiting=self._engine.waiting(self._settings.queues),
            is_busy=bool(self._hand.running),
        )

    def _end_revoked(self, revocation: Revocation) -> None:
        """End the running task with its process, if that was asked for; commit what is finished first."""
        running, lease = self._hand.running, self._lease
        if self.exit is None or not revocation.terminate or lease is None:
            return
        task = next((one for one in running if one.seq == revocation.seq), None)
        if task is None:
            return
        now_us = self._clock.now_us()
        ended = Raised(
            task, "TaskRevoked", f"terminated: {revocation.reason}", "", None, now_us, now_us
        )
        with self._hand.committing:
            self._settle(lease, running, [ended])
            self._executor.tell_terminated(task, revocation.reason)
            reach("task.terminated")
            self.exit()

    def _end_overrun(self, over: Overtime) -> None:
        """End the running task, whose hard time limit is over, with its process; commit what is finished first."""
        lease = self._lease
        if self.exit is None or lease is None or self._hand.running is not over.work:
            return
        now_us = self._clock.now_us()
        ended = [
            Raised(
                task,
                TimeLimitExceeded.__name__,
                over.error,
                over.traceback,
                delay_us,
                over.started_us,
                now_us,
            )
            for task, delay_us in zip(over.work, over.retry_delays_us, strict=True)
        ]
        with self._hand.committing:
            self._settle(lease, over.work, ended)
            reach("task.terminated")
            self.exit()

    def _settle(self, lease: Lease, running: Work, ended: Sequence[Raised]) -> None:
        """Commit what is finished and how what runs has ended, and give the lease up. The process must end next."""
        self._hand.give_up()  # It goes back with the lease, and so do the others of a batch.
        done = [*self._hand.drain(), *ended]
        done += self._executor.cut_short(running, done)
        self._engine.exchange(lease, done, want=0)
        for order in self._engine.leave(lease):
            self._pass_on(order)

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
        if self._limits is not None:
            self._limits.keep_for(self._mark, self._end_overrun, settings.lease_us)
        return self._lease

    def _serve(self, lease: Lease, keeper: LeaseKeeper) -> Lease:
        """Work until it is time to end; return the lease that is held then."""
        queues = self._settings.queues
        while True:
            keeper.refuse_failed()
            stopping = self._stopping.is_set() or self.is_used_up
            finished = self._hand.has_finished
            if stopping and not finished:
                return lease  # What was not started goes back with the lease.
            claimed: tuple[Claimed, ...] = ()
            if finished or self._engine.ready(queues).now:
                want = 0 if stopping else min(self._size.tasks, self._left or self._size.tasks)
                exchange = self._exchange(lease, want)
                if exchange is None:
                    continue
                claimed = exchange.claimed
                if exchange.evicted:
                    # Whoever evicted this worker returned its tasks: it goes on with empty hands.
                    reach("task.evicted")
                    self._hand.give_up()
                    lease = self._join()
                    keeper.watch(lease)
            self._look_for_the_dead()
            if claimed:
                self._run_batch(claimed, keeper)
            elif not stopping and not self._rest():
                return lease

    def _exchange(self, lease: Lease, want: int) -> Exchange | None:
        """Commit what is finished and claim; None when the store has no room: then it is kept, and tried again soon.

        Raises the error when the worker was told to stop: what is finished runs again then, when there is room.
        """
        with self._hand.committing:
            finished = self._hand.drain()
            try:
                return self._engine.exchange(lease, finished, want=want)
            except PASSING as error:
                self._hand.put_back(finished)
                if self._stopping.is_set():
                    raise
                self._report(f"{len(finished)} results wait for their commit: {error}")
        self._stopping.wait(RECOVERY_TICK_US / _MICROSECONDS)
        return None

    def _run_batch(self, claimed: tuple[Claimed, ...], keeper: LeaseKeeper) -> None:
        mark = self._mark
        assert mark is not None, "made with the lease"
        memory_bytes_max = self._settings.memory_bytes_max
        self._hand.fill(claimed)
        if len(claimed) > 1:
            keeper.attend()
        started_s = self._clock.monotonic_s()
        run = 0
        while not self._stopping.is_set():
            # After a pause of a whole lease, what is pending may be in other hands: ask before it is started.
            if not still_holds(keeper, self._stopping):
                break
            work = self._hand.take()
            if not work:
                break
            mark.begin(work[0].seq if len(work) == 1 else SEVERAL)
            completions = self._executor.run(work)
            mark.end()
            self._hand.finish(completions)
            run += 1
            # After an attempt, never before one: each process runs something, however low the bound.
            if (
                memory_bytes_max is not None
                and process_memory_bytes(os.getpid()) > memory_bytes_max
            ):
                self._is_too_large = True
                break
        process_us = int((self._clock.monotonic_s() - started_s) * _MICROSECONDS)
        if self._left is not None:
            self._left -= run
        self._size.observe(tasks=run, process_us=process_us)

    def _look_for_the_dead(self) -> None:
        now_s = self._clock.monotonic_s()
        if (now_s - self._looked_s) * _MICROSECONDS >= RECOVERY_TICK_US:
            self._looked_s = now_s
            with contextlib.suppress(*PASSING):  # They are found at the next look.
                self._engine.recover()

    def _rest(self) -> bool:
        """Sleep until there may be something to do; False when a burst has come to its end."""
        self._waiter.arm()
        ready = self._engine.ready(self._settings.queues)
        if ready.now:
            return True
        if self._settings.burst and self._engine.is_idle(self._settings.queues):
            return False
        timeout_us = RECOVERY_TICK_US
        if ready.next_due_us is not None:
            timeout_us = min(timeout_us, ready.next_due_us - self._clock.now_us())
        self._waiter.wait(max(0, timeout_us) / _MICROSECONDS)
        return True
