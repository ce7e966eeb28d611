"""The second thread of a worker: it shows signs of life, hears what is asked, and helps when a task turns out long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from millstream.engines.local.task_workers import lease_channel
from millstream.engines.local.tasks import LocalTasks
from millstream.engines.local.worker_hand import Hand
from millstream.primitives.errors import MillstreamError, StoreBusy, StoreFull
from millstream.primitives.telemetry import reach
from millstream.tasks.limits import (
    BEATS_PER_LEASE,
    CLAIM_GOAL_US,
    ORDERS_LOOK_US,
    RECOVERY_TICK_US,
)
from millstream.tasks.message import Lease, Revocation
from millstream.tasks.workers import Order, OrderKind, WorkerReport

_MICROSECONDS = 1_000_000
_WATCH_US = 2 * CLAIM_GOAL_US
_LOOK_S = ORDERS_LOOK_US / _MICROSECONDS
PASSING = (StoreFull, StoreBusy)
"""Errors of a store that may be well again soon, and that undo what was tried: the worker keeps what it holds."""


class LeaseKeeper:
    """The second thread of a worker: shows signs of life, and hears what is asked of the worker.

    A commit that asks for something wakes it. Channels share bits, so others wake it too: it looks at most every
    ``ORDERS_LOOK_US``, and once a second when nobody wakes it.
    """

    def __init__(
        self,
        engine: LocalTasks,
        hand: Hand,
        lease: Lease,
        lease_us: int,
        *,
        on_revoked: Callable[[Revocation], None],
        on_order: Callable[[Order], None],
        report: Callable[[], WorkerReport],
    ) -> None:
        """Start the thread, which calls ``on_revoked`` with each held task that shall be revoked, as often as it looks.

        ``on_order`` is called with what is asked of the node, ``report`` for each sign of life.
        """
        self._on_revoked = on_revoked
        self._on_order = on_order
        self._report = report
        self._engine = engine
        self._hand = hand
        self._lease = lease
        self._clock = engine.store.clock
        self._lease_s = lease_us / _MICROSECONDS
        self._beaten_s = self._clock.monotonic_s()
        self._waiter = engine.store.waiter(lease_channel(lease.number))
        self._waiter_lock = threading.Lock()
        self._is_deaf = False
        self._nudged = threading.Event()
        self._attention = threading.Lock()
        self._attending = False
        self._stopped = False
        self._failure: MillstreamError | None = None
        self._thread = threading.Thread(target=self._run, name="millstream-lease", daemon=True)
        self._thread.start()

    def watch(self, lease: Lease) -> None:
        """Keep another lease from now on."""
        self._lease = lease
        self._beaten_s = self._clock.monotonic_s()
        self._nudge()

    @property
    def is_overdue(self) -> bool:
        """Tell whether the last sign of life is a whole lease ago, so that the lease may be lost."""
        return self._clock.monotonic_s() - self._beaten_s >= self._lease_s

    def beat(self) -> bool:
        """Show a sign of life. When the lease is lost, nothing that it held is started any more. Any thread."""
        now_s = self._clock.monotonic_s()
        holds = self._engine.beat(self._lease, self._report())
        self._beaten_s = now_s
        if not holds:
            self._hand.give_up()  # Whoever evicted this worker returned it.
        return holds

    def attend(self) -> None:
        """Look at the hand every now and then until it is empty: a batch has been put into it."""
        with self._attention:
            fresh, self._attending = not self._attending, True
        if fresh:
            self._nudge()

    def refuse_failed(self) -> None:
        """Raise the error that ended the thread, if one did: without signs of life the worker must not go on."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped = True
        self._nudge()
        self._thread.join()

    def _nudge(self) -> None:
        self._nudged.set()
        with self._waiter_lock:
            if not self._is_deaf:  # Its place may be another's by now.
                self._waiter.nudge()

    def _run(self) -> None:
        try:
            self._keep()
        except MillstreamError as error:
            self._failure = error  # Raised in the worker's own thread, see ``refuse_failed``.
        finally:
            with self._waiter_lock:
                self._is_deaf = True
                self._waiter.close()

    def _keep(self) -> None:
        looked_s = self._clock.monotonic_s() - _LOOK_S
        tried_s = self._beaten_s
        listened = self._lease
        while not self._stopped:
            if self._lease is not listened:
                listened = self._lease
                self._listen_for(listened)
            now_s = self._clock.monotonic_s()
            left_s = max(tried_s, self._beaten_s) + self._lease_s / BEATS_PER_LEASE - now_s
            if left_s <= 0:
                tried_s = now_s
                with contextlib.suppress(*PASSING):
                    self.beat()
                self._look()
                continue
            if self._attending:
                left_s = min(left_s, _WATCH_US / _MICROSECONDS)
            quiet_s = looked_s + _LOOK_S - now_s
            if quiet_s > 0:
                self._nudged.wait(min(left_s, quiet_s))
                self._nudged.clear()
            else:
                self._waiter.arm()
                self._look()
                looked_s = now_s
                self._waiter.wait(left_s)
            if self._attending:
                self._attend_once()

    def _listen_for(self, lease: Lease) -> None:
        with self._waiter_lock:
            self._waiter.close()
            self._waiter = self._engine.store.waiter(lease_channel(lease.number))

    def _look(self) -> None:
        """Hear what is asked of the worker."""
        lease = self._lease
        ordered, is_revoked = self._engine.has_notices(lease)
        if is_revoked:
            for revocation in self._engine.revocations(lease):
                self._on_revoked(revocation)
        if not ordered:
            return
        orders = self._engine.orders(lease)
        if any(order.kind is OrderKind.REPORT for order in orders):
            with contextlib.suppress(*PASSING):
                self.beat()
        others = [order for order in orders if order.kind is not OrderKind.REPORT]
        for order in others:
            self._on_order(order)
        if others:
            with contextlib.suppress(*PASSING):  # They come again, and are known by their ids.
                self._engine.obeyed(lease, others)

    def _attend_once(self) -> None:
        if self._hand.is_stuck(_WATCH_US):
            with contextlib.suppress(*PASSING):
                unblock(self._engine, self._lease, self._hand)
        with self._attention:
            # The hand is filled before ``attend`` takes this lock, so a batch is never overlooked.
            self._attending = not self._hand.is_empty


def still_holds(keeper: LeaseKeeper, stopping: threading.Event) -> bool:
    """Tell whether what was claimed may be started: asks the store only when the last sign of life is a lease ago."""
    while keeper.is_overdue:
        try:
            return keeper.beat()
        except PASSING:
            if stopping.wait(RECOVERY_TICK_US / _MICROSECONDS):
                return False
    return True


def unblock(engine: LocalTasks, lease: Lease, hand: Hand) -> None:
    """Commit what is finished and hand back what is not started, behind a task that takes long."""
    with hand.committing:
        finished = hand.drain()
        try:
            if finished:
                engine.exchange(lease, finished, want=0)
        except PASSING:
            hand.put_back(finished)
            raise
    pending = hand.give_up()
    try:
        if pending:
            engine.hand_back(lease, pending)
    except PASSING:
        hand.fill(pending)
        raise
    reach("task.unblocked")
