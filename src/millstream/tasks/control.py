"""The third seam of tasks: what may be done to calls that were sent, by people and by programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from millstream.tasks.message import Progress, QueueStatus, TaskFilter, TaskStatus


class TaskControl(Protocol):
    """Looks at tasks and queues, and changes them durably, whether workers run or not. Any thread."""

    def revoke(self, task_ids: Sequence[str], *, reason: str, terminate: bool = False) -> int:
        """Revoke what waits, and mark what runs to be revoked; return how many. What has ended is left as it is."""
        ...

    def requeue(self, task_ids: Sequence[str]) -> int:
        """Queue failed and revoked tasks again, with all their retries, and start those now that wait for a time.

        The errors of earlier attempts are kept. Returns how many there were.
        """
        ...

    def forget(self, task_id: str) -> bool:
        """Delete a task that has ended, with its result and errors; False when there is none such."""
        ...

    def arguments(self, task_id: str) -> bytes | None:
        """Return the stored arguments of a call; None when there is no task of that id (any more)."""
        ...

    def progress(self, task_id: str) -> Progress | None:
        """Return what a running task last told; None when it told nothing, or has ended."""
        ...

    def tasks(self, chosen: TaskFilter, *, tasks_max: int) -> list[TaskStatus]:
        """Return up to so many tasks without their results, the youngest first. Raises ConfigurationError."""
        ...

    def ids(self, chosen: TaskFilter, *, tasks_max: int) -> list[str]:
        """Return the ids of up to so many tasks, the oldest first."""
        ...

    def purge(self, chosen: TaskFilter) -> int:
        """Delete tasks that do not run, with results and errors; return how many. A kill leaves some."""
        ...

    def pause(self, queue: str) -> None:
        """Let nothing be claimed from a queue until ``resume``, not even after a restart. Running tasks run on."""
        ...

    def resume(self, queue: str) -> bool:
        """Let tasks of the queue be claimed again; False when it was not paused."""
        ...

    def queues(self) -> list[QueueStatus]:
        """Return every queue that holds tasks or is paused, by name."""
        ...
