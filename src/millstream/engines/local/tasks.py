"""Tasks in the store's catalog: one row a task, one transaction a step.

A step of a worker is one commit: results, acknowledgements and the next claim together. What is claimed belongs to a
lease; the lease belongs to a worker; a worker that dies is evicted by another, in one commit with the return of its
tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from millstream.engines.local import task_events, task_workers, task_workflows
from millstream.engines.local import task_transactions as rows
from millstream.engines.local.task_control import LocalTaskControl
from millstream.engines.local.task_deaths import Death, evict
from millstream.engines.local.task_delays import TaskDelays
from millstream.engines.local.task_status import attempt_from, status_of
from millstream.engines.local.task_wait import EndOfTask
from millstream.primitives.durability import Durability
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.telemetry import reach
from millstream.store.catalog import Row
from millstream.store.runmark import RunMark, RunMarks
from millstream.store.store import Store
from millstream.store.transaction import Transaction
from millstream.tasks.batch import Batch
from millstream.tasks.lease import LeaseWatch, WorkerSight
from millstream.tasks.limits import CHILDREN_MAX, QUEUES_PER_WORKER_MAX
from millstream.tasks.message import (
    Attempt,
    Claimed,
    Completion,
    Exchange,
    Lease,
    Progress,
    Raised,
    Readiness,
    Recovered,
    Revocation,
    TaskMessage,
    TaskStatus,
)
from millstream.tasks.options import check_name
from millstream.tasks.states import TaskState
from millstream.tasks.workers import Order, WorkerProfile, WorkerReport
from millstream.tasks.workflow_plan import Plan


class LocalTasks:
    """The ``TaskEngine`` and ``TaskDelivery`` of one store. Any thread."""

    def __init__(self, store: Store) -> None:
        """Use an open store; closing it is the caller's."""
        self.store = store
        self._delays = TaskDelays()
        self._watch = LeaseWatch()
        self._watch_lock = threading.Lock()
        self._marks = RunMarks(store.directory.run)
        self.control = LocalTaskControl(store)
        self.workers = task_workers.LocalWorkers(store)
        self.events = task_events.LocalTaskEvents(store)
        self._tally_lock = threading.Lock()
        self._succeeded = self._raised = 0

    # Senders

    def now_us(self) -> int:
        """Return the time that ETAs are compared with."""
        return self.store.clock.now_us()

    def enqueue(self, messages: Sequence[TaskMessage]) -> Mapping[str, str]:
        """Store the calls in one commit; durable when this returns. See ``TaskEngine``."""
        if not messages:
            return {}
        standing = self.store.write(lambda tx: rows.enqueue(tx, messages))
        reach("task.enqueued")
        return standing

    def staged(
        self, messages: Sequence[TaskMessage], settle: Callable[[Mapping[str, str]], None]
    ) -> Callable[[Transaction], None]:
        """Return ``enqueue`` as a work for a transaction of the store; ``settle`` is given what ``enqueue`` returns."""

        def work(tx: Transaction) -> None:
            settle(rows.enqueue(tx, messages))

        return work

    def start_workflow(self, plan: Plan) -> None:
        """Store a workflow and enqueue what waits for nothing, in one commit. See ``WorkflowEngine``."""
        self.store.write(lambda tx: task_workflows.begin(tx, plan, rows.enqueue))
        reach("workflow.started")

    async def astart_workflow(self, plan: Plan) -> None:
        """``start_workflow`` in a thread of the event loop's pool."""
        await asyncio.to_thread(self.start_workflow, plan)

    async def aenqueue(self, messages: Sequence[TaskMessage]) -> Mapping[str, str]:
        """``enqueue`` in a thread of the event loop's pool."""
        return await asyncio.to_thread(self.enqueue, messages)

    def status(self, task_id: str) -> TaskStatus | None:
        """Return what is known of a task, or None."""
        with self.store.read() as snapshot:
            return status_of(snapshot, task_id)

    def wait(self, task_id: str, timeout_s: float | None) -> TaskStatus:
        """Return the final status; sleeps until the commit that ends the task wakes it."""
        wait = EndOfTask(self.store, task_id, timeout_s)
        with self.store.waiter(rows.task_channel(task_id)) as waiter:
            while True:
                waiter.arm()
                status = wait.look()
                if status is not None:
                    return status
                waiter.wait(wait.left_s)

    async def await_end(self, task_id: str, timeout_s: float | None) -> TaskStatus:
        """``wait`` in an event loop: what wakes the waiter wakes the loop."""
        wait = EndOfTask(self.store, task_id, timeout_s)
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()
        with self.store.waiter(rows.task_channel(task_id)) as waiter:
            loop.add_reader(waiter.fileno(), woken.set)
            try:
                while True:
                    woken.clear()
                    waiter.arm()
                    status = wait.look()
                    if status is not None:
                        return status
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(woken.wait(), wait.left_s)
                    waiter.wait(0)  # Takes the wake-up out of the descriptor.
            finally:
                loop.remove_reader(waiter.fileno())

    def changes(self, task_id: str) -> Iterator[tuple[TaskStatus, Progress | None]]:
        """Return state and progress of a task, and again whenever they have changed, until it has ended.

        Raises UnknownTask, also when the task is deleted meanwhile.
        """
        wait = EndOfTask(self.store, task_id, None)
        seen: tuple[TaskState, Progress | None] | None = None
        with self.store.waiter(rows.task_channel(task_id)) as waiter:
            while True:
                waiter.arm()
                ended = wait.look()
                status = ended or self.status(task_id)
                progress = self.control.progress(task_id)
                if status is not None and (status.state, progress) != seen:
                    seen = (status.state, progress)
                    yield status, progress
                if ended is not None:
                    return
                waiter.wait(wait.left_s)

    def attempts(self, task_id: str) -> list[Attempt]:
        """Return every failed attempt, the first one first."""
        with self.store.read() as snapshot:
            return [attempt_from(row) for row in snapshot.run("tasks/attempts", (task_id,))]

    def depth(self, queue: str | None = None) -> Mapping[TaskState, int]:
        """Return how many tasks are in each state."""
        with self.store.read() as snapshot:
            if queue is None:
                counts = snapshot.run("tasks/depth")
            else:
                counts = snapshot.run("tasks/depth_of_queue", (queue,))
        known: dict[str, int] = dict(counts)
        return {state: known.get(state, 0) for state in TaskState}

    # Workers

    def join(
        self,
        queues: Sequence[str],
        *,
        lease_us: int,
        batches: Mapping[str, Batch] | None = None,
        profile: WorkerProfile = WorkerProfile(),  # noqa: B008 - frozen
    ) -> Lease:
        """Register a worker of this process."""
        if not 0 < len(queues) <= QUEUES_PER_WORKER_MAX or len(set(queues)) < len(queues):
            raise ConfigurationError(
                f"a worker cannot read {len(queues)} queues: {', '.join(queues)[:80]}",
                expected=f"1 to {QUEUES_PER_WORKER_MAX} different names",
            )
        for queue in queues:
            check_name("queue", queue)
        worker = f"{platform.node()}:{os.getpid()}"

        def work(tx: Transaction) -> int:
            params = {
                "process": self.store.process,
                "worker": worker,
                "queues": json.dumps(list(queues)),
                "lease_us": lease_us,
                "now_us": tx.now_us,
            }
            number: int = tx.run("tasks/join", params)[0][0]
            tx.run("tasks/set_profile", (number, task_workers.encode(profile)))
            return number

        number = self.store.write(work, durability=Durability.PROCESS)
        reach("task.joined")
        self._sweep_marks()
        return Lease(number=number, worker=worker, queues=tuple(queues), batches=batches or {})

    def mark(self, lease: Lease, *, lease_us: int) -> RunMark:
        """Make the mark that says what runs under a lease of this process. Raises StoreError."""
        try:
            return self._marks.make(lease.number, lease_us)
        except OSError as error:
            raise self.store.refuse(error, self.store.directory.run) from error

    def ready(self, queues: Sequence[str]) -> Readiness:
        """Tell whether a claim would find something; reads only."""
        now_us = self.store.clock.now_us()
        params = {"queues": json.dumps(queues), "now_us": now_us}
        queued, *times = self.store.look("tasks/ready", params)[0]
        next_due_us = min((due_us for due_us in times if due_us is not None), default=None)
        is_due = next_due_us is not None and next_due_us <= now_us
        return Readiness(now=bool(queued) or is_due, next_due_us=next_due_us)

    def waiting(self, queues: Sequence[str]) -> int:
        """Return how many tasks a free worker could take now; counts up to ``CHILDREN_MAX``, since no pool has more."""
        params = {
            "queues": json.dumps(list(queues)),
            "now_us": self.store.clock.now_us(),
            "tasks_max": CHILDREN_MAX,
        }
        with self.store.read() as snapshot:
            return int(snapshot.run("tasks/count_waiting", params)[0][0])

    def is_idle(self, queues: Sequence[str]) -> bool:
        """Tell whether nothing is queued, running or waiting for a retry; an ETA to come is not counted."""
        with self.store.read() as snapshot:
            return rows.is_idle(snapshot, queues)

    def exchange(self, lease: Lease, done: Sequence[Completion], *, want: int) -> Exchange:
        """Store completions and claim up to ``want`` tasks in one commit. See ``TaskDelivery``."""

        def work(tx: Transaction) -> tuple[Sequence[Completion], tuple[Claimed, ...], bool]:
            accepted = rows.complete(tx, lease, done) if done else ()
            holds, claimed = rows.claim(tx, lease, want)
            self._delays.store(tx)
            return accepted, claimed, not holds

        accepted, claimed, evicted = self.store.write(work)
        committed_us = self.store.clock.now_us()
        if accepted:
            self._delays.add(accepted, committed_us)
            raised = sum([type(one) is Raised for one in accepted])
            with self._tally_lock:
                self._raised += raised
                self._succeeded += len(accepted) - raised
            reach("task.acknowledged")
        if claimed:
            reach("task.claimed")
        return Exchange(claimed, len(done) - len(accepted), evicted, committed_us)

    def hand_back(self, lease: Lease, tasks: Sequence[Claimed]) -> int:
        """Return claimed tasks that were not run to their old place in the queue."""
        returned = self.store.write(
            lambda tx: rows.hand_back(tx, lease, tasks), durability=Durability.PROCESS
        )
        reach("task.handed_back")
        return returned

    @property
    def tally(self) -> tuple[int, int]:
        """How many attempts this process has ended with success, and how many that raised."""
        with self._tally_lock:
            return self._succeeded, self._raised

    def beat(self, lease: Lease, report: WorkerReport = WorkerReport()) -> bool:  # noqa: B008 - frozen
        """Show a sign of life. Needs no sync: after a power loss every worker is dead anyway."""

        def work(tx: Transaction) -> bool:
            told = task_workers.encode(report)
            params = {"now_us": tx.now_us, "told": told, "lease": lease.number}
            if not tx.run("tasks/beat", params):
                return False
            tx.run("tasks/drop_report_orders", (lease.number,))
            tx.wake(task_workers.CHANNEL)
            return True

        return self.store.write(work, durability=Durability.PROCESS)

    def has_notices(self, lease: Lease) -> tuple[bool, bool]:
        """Tell whether there are orders for a worker, and running tasks of it that shall be revoked; reads only."""
        with self.store.read() as snapshot:
            ordered, revoked = snapshot.run("tasks/notices", {"lease": lease.number})[0]
        return bool(ordered), bool(revoked)

    def orders(self, lease: Lease) -> list[Order]:
        """Return what is asked of a worker, the oldest first."""
        with self.store.read() as snapshot:
            return task_workers.orders_of(snapshot, lease.number)

    def obeyed(self, lease: Lease, orders: Sequence[Order]) -> None:
        """Forget orders. Needs no sync: one that comes again is known by its id."""
        self.store.write(
            lambda tx: tx.many("tasks/drop_order", [(lease.number, one.id) for one in orders]),
            durability=Durability.PROCESS,
        )
        reach("worker.obeyed")

    def report(self, lease: Lease, task: Claimed, *, state: str, meta: bytes) -> bool:
        """Store progress. Needs no sync: after a power loss the attempt is over anyway."""

        def work(tx: Transaction) -> bool:
            params = {
                "told": state,
                "now_us": tx.now_us,
                "meta": meta,
                "seq": task.seq,
                "lease": lease.number,
                "attempt": task.attempt,
            }
            if not tx.run("tasks/set_progress", params):
                return False
            tx.wake(rows.task_channel(task.id))
            return True

        told = self.store.write(work, durability=Durability.PROCESS)
        reach("task.reported")
        return told

    def revocations(self, lease: Lease) -> list[Revocation]:
        """Return what shall be revoked of this lease."""
        with self.store.read() as snapshot:
            found = snapshot.run("tasks/revocations", (lease.number,))
        return [Revocation(seq, task_id, why, bool(now)) for seq, task_id, why, now in found]

    def leave(self, lease: Lease) -> list[Order]:
        """Give up the lease; all that is still held goes back, uncharged. Returns the orders that were not obeyed."""

        def work(tx: Transaction) -> list[Order]:
            left = task_workers.orders_of(tx, lease.number)
            rows.leave(tx, lease)
            self._delays.store(tx, now=True)
            return left

        left = self.store.write(work, durability=Durability.PROCESS)
        reach("task.left")
        self._marks.remove(lease.number)
        return left

    def recover(self) -> Recovered:
        """Evict dead workers, return their tasks, remove what has expired; writes only if there is something to do."""
        with self.store.read() as snapshot:
            seen = snapshot.run("tasks/workers")
            now = {"now_us": self.store.clock.now_us()}
            old, lapsed, repeatable = snapshot.run("tasks/expired", now)[0]
            recorded = task_events.are_too_many(snapshot)
        deaths = self._deaths(seen)
        if not (deaths or old or lapsed or repeatable or recorded or self._delays.are_due):
            return Recovered(0, 0, 0)

        def work(tx: Transaction) -> dict[int, tuple[int, int]]:
            fates = {death.lease: evict(tx, death) for death in deaths}
            if old or repeatable:
                rows.prune(tx)
            if lapsed:
                rows.lapse(tx)
            if recorded:
                task_events.prune(tx)
            self._delays.store(tx)
            return {lease: fate for lease, fate in fates.items() if fate is not None}

        evicted = self.store.write(work)
        reach("task.recovered")
        for lease in evicted:
            self._marks.remove(lease)
        returned, abandoned = (sum(fate[n] for fate in evicted.values()) for n in (0, 1))
        return Recovered(len(evicted), returned, abandoned)

    def refused(self) -> int:
        """Return how many completions came too late, ever."""
        with self.store.read() as snapshot:
            found = snapshot.run("tasks/counter", (rows.REFUSED,))
        return int(found[0][0]) if found else 0

    def _deaths(self, seen: Sequence[Row]) -> list[Death]:
        sights = [
            WorkerSight(lease=lease, process=process, beats=beats, lease_us=lease_us)
            for lease, process, _, beats, lease_us in seen
        ]
        names = {row[0]: str(row[2]) for row in seen}
        monotonic_us = int(self.store.clock.monotonic_s() * 1_000_000)
        with self._watch_lock:
            silent = self._watch.silent(sights, monotonic_us=monotonic_us)
        deaths = []
        for sight in sights:
            if not self.store.is_alive(sight.process):
                why = "its process is gone (killed, out of memory, or crashed)"
            elif sight.lease in silent:
                why = f"no sign of life for {sight.lease_us / 1_000_000:g} s, its lease"
            else:
                continue
            last_run = self._marks.last_run(sight.lease)
            worker = names[sight.lease]
            deaths.append(Death(sight.lease, worker, sight.beats, why, last_run))
        return deaths

    def _sweep_marks(self) -> None:
        """Remove marks whose worker was killed between giving up its lease and removing them itself."""
        # First the files, then the rows: a mark is made after its row.
        marked = self._marks.leases()
        if marked:
            with self.store.read() as snapshot:
                held = {row[0] for row in snapshot.run("tasks/workers")}
            for lease in marked - held:
                self._marks.remove(lease)
