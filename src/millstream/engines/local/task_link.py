"""How a task that runs in this process reaches the store: progress, and whether it was revoked."""

from __future__ import annotations

from collections.abc import Callable

from millstream.engines.local.task_workflows import is_step
from millstream.engines.local.tasks import LocalTasks
from millstream.tasks.bound import Origin
from millstream.tasks.message import Claimed, Lease


class LocalAttemptLink:
    """The ``AttemptLink`` of a worker that runs tasks itself. Any thread."""

    def __init__(self, engine: LocalTasks, lease: Callable[[], Lease | None]) -> None:
        """``lease`` returns the lease that the worker holds now."""
        self._engine = engine
        self._lease = lease

    def now_us(self) -> int:
        """Return the time of the store."""
        return self._engine.now_us()

    def report(self, task: Claimed, *, state: str, meta: bytes) -> bool:
        """Store progress, if the task is still held."""
        lease = self._lease()
        return lease is not None and self._engine.report(lease, task, state=state, meta=meta)

    def revoked(self, task: Claimed) -> str | None:
        """Return why the task shall be revoked, if it shall."""
        with self._engine.store.read() as snapshot:
            found = snapshot.run("tasks/revoke_reason", (task.seq,))
        reason: str | None = found[0][0] if found else None
        return reason

    def origin(self, task: Claimed) -> Origin:
        """Return who runs the task, and its place in a workflow; reads the store only for steps of one."""
        lease = self._lease()
        worker = "" if lease is None else lease.worker
        if not is_step(task.id):
            return Origin(worker, task.id, None)
        with self._engine.store.read() as snapshot:
            found = snapshot.run("workflows/origin", {"id": task.id})
        root_id, group = found[0] if found else (task.id, None)
        return Origin(worker, root_id, group)
