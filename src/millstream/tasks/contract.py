"""Two of the five seams of tasks. ``millstream.testing.tasks_suite`` is their conformance suite.

``TaskEngine`` is what senders need, and all that an engine with workers of its own must give. ``TaskDelivery`` is what
our worker needs of a store. The others are ``control.TaskControl``, ``workers.WorkerControl`` and
``events.TaskEvents``. All are safe to call from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from millstream.tasks.batch import Batch
from millstream.tasks.control import TaskControl
from millstream.tasks.events import TaskEvents
from millstream.tasks.message import (
    Attempt,
    Claimed,
    Completion,
    Exchange,
    Lease,
    Readiness,
    Recovered,
    Revocation,
    TaskMessage,
    TaskStatus,
)
from millstream.tasks.states import TaskState
from millstream.tasks.workers import Order, WorkerControl, WorkerProfile, WorkerReport


class TaskEngine(Protocol):
    """Stores calls and tells what became of them."""

    def now_us(self) -> int:
        """Return the time that ETAs are compared with: UTC microseconds since the epoch."""
        ...

    @property
    def control(self) -> TaskControl:
        """What may be done to tasks that were sent."""
        ...

    @property
    def workers(self) -> WorkerControl:
        """The workers that live, and what may be asked of them."""
        ...

    @property
    def events(self) -> TaskEvents:
        """The stream of what happens to tasks."""
        ...

    def enqueue(self, messages: Sequence[TaskMessage]) -> Mapping[str, str]:
        """Store the calls, all or none; return when they are durable. An id that is stored already is left as it is.

        Within a queue and a priority tasks are claimed in the order in which they were enqueued. Returns the ids for
        which another task stands, because their ``unique_key`` is the same; these calls were not stored.
        """
        ...

    async def aenqueue(self, messages: Sequence[TaskMessage]) -> Mapping[str, str]:
        """``enqueue`` without blocking the event loop."""
        ...

    def status(self, task_id: str) -> TaskStatus | None:
        """Return what is known of a task; None when there is none of that id, or it has expired."""
        ...

    def wait(self, task_id: str, timeout_s: float | None) -> TaskStatus:
        """Return the status of a task once it is final; sleeps until woken.

        Raises ResultTimeout after ``timeout_s``, UnknownTask when there is none of that id (any more).
        """
        ...

    async def await_end(self, task_id: str, timeout_s: float | None) -> TaskStatus:
        """``wait`` without blocking the event loop, and without a thread for each that waits."""
        ...

    def attempts(self, task_id: str) -> list[Attempt]:
        """Return every failed attempt of a task, the first one first."""
        ...

    def depth(self, queue: str | None = None) -> Mapping[TaskState, int]:
        """Return how many tasks are in each state, of one queue or of all."""
        ...


class TaskDelivery(Protocol):
    """Hands tasks to workers, so that none is lost when a worker dies and none is finished by two."""

    def join(
        self,
        queues: Sequence[str],
        *,
        lease_us: int,
        batches: Mapping[str, Batch] | None = None,
        profile: WorkerProfile = WorkerProfile(),  # noqa: B008 - frozen
    ) -> Lease:
        """Register a worker of this process, and what it says of itself.

        It takes many calls at once of the tasks in ``batches``.
        """
        ...

    def ready(self, queues: Sequence[str]) -> Readiness:
        """Tell whether a claim would find something; reads only."""
        ...

    def exchange(self, lease: Lease, done: Sequence[Completion], *, want: int) -> Exchange:
        """Store completions and claim up to ``want`` tasks, in one commit.

        A completion takes effect only while its task is held under this lease, in this attempt; others are refused and
        counted. A task that must run alone is claimed alone. A batch is claimed without other tasks, once it is full or
        its oldest call has waited for long enough; whatever its size it counts as one of ``want``. Returns when the
        completions are durable.
        """
        ...

    def hand_back(self, lease: Lease, tasks: Sequence[Claimed]) -> int:
        """Return claimed tasks that were not run to their old place in the queue; return how many were still held."""
        ...

    def beat(self, lease: Lease, report: WorkerReport = WorkerReport()) -> bool:  # noqa: B008 - frozen
        """Show a sign of life, and say what the worker does. False means that the lease is lost.

        It answers all orders to report.
        """
        ...

    def orders(self, lease: Lease) -> list[Order]:
        """Return what is asked of the worker of this lease, the oldest first; reads only."""
        ...

    def obeyed(self, lease: Lease, orders: Sequence[Order]) -> None:
        """Forget orders that were passed on. After a crash before it they are passed on again, under the same ids."""
        ...

    def report(self, lease: Lease, task: Claimed, *, state: str, meta: bytes) -> bool:
        """Store the progress of a held task and wake those who wait for it; False when it is not held any more."""
        ...

    def revocations(self, lease: Lease) -> list[Revocation]:
        """Return the tasks of this lease that shall be revoked while they run; reads only.

        When such an attempt ends without a result, its task is revoked instead of retried. A worker that can do so ends
        those with ``terminate`` now, and completes them as ``Raised``.
        """
        ...

    def leave(self, lease: Lease) -> list[Order]:
        """Give up the lease; all that is still held goes back to the queue, uncharged.

        Returns the orders that were not obeyed: none is lost between a look and the leaving.
        """
        ...

    def recover(self) -> Recovered:
        """Look for dead workers, and return what they held. To be called about once in ``RECOVERY_TICK_US``."""
        ...
