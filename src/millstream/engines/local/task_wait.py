"""Waiting for the end of a task: what happens between two wake-ups."""

from __future__ import annotations

from millstream.engines.local import task_transactions as rows
from millstream.engines.local.task_status import status_of
from millstream.primitives.errors import ResultTimeout
from millstream.store.store import Store
from millstream.tasks.message import TaskStatus
from millstream.tasks.result import unknown_task_id
from millstream.tasks.states import WAITING


class EndOfTask:
    """The wait for the end of one task, between two looks at the store."""

    def __init__(self, store: Store, task_id: str, timeout_s: float | None) -> None:
        """Begin to count the time."""
        self._store = store
        self._id = task_id
        self._timeout_s = timeout_s
        self._clock = store.clock
        self._end_s = None if timeout_s is None else self._clock.monotonic_s() + timeout_s
        self.left_s: float | None = None
        """How long to sleep at most before the next look."""

    def look(self) -> TaskStatus | None:
        """Return the status if it is final. Raises UnknownTask, or ResultTimeout when the time is over."""
        status = self._status()
        if status is None:
            raise unknown_task_id(self._id)
        if status.state.is_final:
            return status
        self.left_s = None if self._end_s is None else self._end_s - self._clock.monotonic_s()
        if self.left_s is not None and self.left_s <= 0:
            raise _timed_out(status, self._timeout_s)
        if status.start_before_us is not None and status.state in WAITING:
            # Without a worker nobody else sees that the task has expired.
            lapses_s = (status.start_before_us - self._clock.now_us()) / 1_000_000
            if lapses_s <= 0:
                self._store.write(rows.lapse)
                return self.look()
            self.left_s = lapses_s if self.left_s is None else min(self.left_s, lapses_s)
        return None

    def _status(self) -> TaskStatus | None:
        with self._store.read() as snapshot:
            return status_of(snapshot, self._id)


def _timed_out(status: TaskStatus, timeout_s: float | None) -> ResultTimeout:
    return ResultTimeout(
        f"no result of task {status.name!r} within {timeout_s} s; it is {status.state}",
        where=f"task id {status.id}, queue {status.queue!r}",
        expected="a worker that reads the queue",
        next_step="start one with `millstream worker`, or wait for longer; the task stays as it is",
    )
