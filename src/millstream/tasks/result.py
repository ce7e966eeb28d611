"""The sender's handle of a task."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from millstream.primitives.errors import TaskFailed, TaskRevoked, UnknownTask
from millstream.tasks.arguments import decode_plain
from millstream.tasks.contract import TaskEngine
from millstream.tasks.message import Attempt, Progress, TaskStatus
from millstream.tasks.states import TaskState

R = TypeVar("R")


class AsyncResult(Generic[R]):
    """A task that was sent. Any thread; any process may make one of an id."""

    __slots__ = ("_decode", "_engine", "children", "id", "parent")

    def __init__(self, task_id: str, *, engine: TaskEngine, decode: Callable[[bytes], Any]) -> None:
        """Refer to the task ``task_id``; nothing is read yet."""
        self.id = task_id
        self._engine = engine
        self._decode = decode
        self.parent: AsyncResult[Any] | None = None
        """The result of the step before, for one that was made by sending a workflow."""
        self.children: tuple[AsyncResult[Any], ...] = ()
        """The results of what follows: the next step, callbacks, the members of a group."""

    def get(self, timeout: float | None = None) -> R:
        """Wait for the end of the task and return its result. ``timeout`` is in seconds; None waits for ever.

        The waiting costs no CPU: the commit of the result wakes it. Raises TaskFailed with the worker's traceback,
        TaskRevoked, ResultTimeout, or UnknownTask when the result has expired.
        """
        return self._value(self._engine.wait(self.id, timeout))

    async def aget(self, timeout: float | None = None) -> R:
        """``get`` without blocking the event loop; ``await result`` is the same without a timeout."""
        return self._value(await self._engine.await_end(self.id, timeout))

    def __await__(self) -> Generator[Any, None, R]:
        """Wait for the end and return the result: ``value = await result``."""
        return self.aget().__await__()

    def successful(self) -> bool:
        """Tell whether the task has succeeded. Raises UnknownTask."""
        return self.state is TaskState.SUCCEEDED

    def failed(self) -> bool:
        """Tell whether the task has failed. Raises UnknownTask."""
        return self.state is TaskState.FAILED

    def revoke(self, reason: str = "on request", *, terminate: bool = False) -> bool:
        """Withdraw the task: one that waits ends at once, durably, wherever workers are.

        A running one may ask for it (``self.check_revoked()``), and is not tried again; if it returns in spite of it,
        it has succeeded. With ``terminate`` its worker process, which is woken for it, ends with it, and another is
        started. False when it had ended.
        """
        return self._engine.control.revoke([self.id], reason=reason, terminate=terminate) == 1

    def forget(self) -> bool:
        """Delete the task and its result. False when there is none, or it has not ended: nothing happened then."""
        return self._engine.control.forget(self.id)

    @property
    def info(self) -> Any:  # noqa: ANN401 - what the task told
        """What the running task told with ``update_state``, or its result, or its error, as Celery's ``info``."""
        status = self.status()
        if status.state is TaskState.SUCCEEDED:
            return self._decoded(status)
        if status.state.is_final:
            return _error_of(status)
        progress = self._engine.control.progress(self.id)
        return None if progress is None else decode_plain(progress.meta)

    @property
    def progress(self) -> Progress | None:
        """The last ``update_state`` with its own state and time; None before the first, and after the end."""
        return self._engine.control.progress(self.id)

    def ready(self) -> bool:
        """Tell whether the task has ended, well or not."""
        return self.status().state.is_final

    @property
    def state(self) -> TaskState:
        """The state that the task is in now. Raises UnknownTask."""
        return self.status().state

    @property
    def result(self) -> R | None:
        """The result of a task that succeeded; None before, and for one that failed. Does not wait."""
        status = self.status()
        return self._decoded(status) if status.state is TaskState.SUCCEEDED else None

    @property
    def error(self) -> str | None:
        """Type and message of the last error, with its traceback; None when no attempt has failed. Does not wait."""
        last = self.status().last
        return None if last is None else last.traceback or f"{last.error_type}: {last.error}"

    def attempts(self) -> list[Attempt]:
        """Return every failed attempt, the first one first."""
        return self._engine.attempts(self.id)

    def status(self) -> TaskStatus:
        """Return all that the store knows of the task. Raises UnknownTask when it has expired."""
        status = self._engine.status(self.id)
        if status is None:
            raise unknown_task_id(self.id)
        return status

    def __repr__(self) -> str:
        """Return the id; the state would have to be read."""
        return f"AsyncResult({self.id!r})"

    def _value(self, status: TaskStatus) -> R:
        if status.state is not TaskState.SUCCEEDED:
            raise _error_of(status)
        return self._decoded(status)

    def _decoded(self, status: TaskStatus) -> R:
        result: R = self._decode(status.result or b"\xc0")
        return result


def unknown_task_id(task_id: str) -> UnknownTask:
    """Return the error for an id that the store does not know."""
    return UnknownTask(
        f"there is no task of the id {task_id!r}",
        expected="the id of a task whose result has not expired",
        next_step="raise `result_ttl` if results must be kept for longer",
    )


def _error_of(status: TaskStatus) -> TaskFailed | TaskRevoked:
    return task_revoked(status) if status.state is TaskState.REVOKED else task_failed(status)


def task_revoked(status: TaskStatus) -> TaskRevoked:
    """Return the error of a task that was revoked or has expired."""
    error = TaskRevoked(
        f"task {status.name!r} was revoked: {status.revoke_reason}",
        where=f"task id {status.id}, queue {status.queue!r}",
        expected="a result",
        next_step="send it again, or requeue it with `millstream tasks retry`",
    )
    error.task_id = status.id
    return error


def task_failed(status: TaskStatus) -> TaskFailed:
    """Return the error of a task that ended in failure."""
    last = status.last
    error = TaskFailed(
        f"task {status.name!r} failed at attempt {status.attempt}: "
        + (f"{last.error_type}: {last.error}" if last else "no error was recorded"),
        where=f"task id {status.id}" + (f", worker {last.worker}" if last else ""),
        expected="a result",
        next_step="read `.traceback` of this error, or `.attempts()` of the result",
    )
    error.task_id = status.id
    error.traceback = last.traceback if last else ""
    error.error_type = last.error_type if last else ""
    return error
