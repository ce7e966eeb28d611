"""What the store knows of a call, as Django's ``TaskResult``."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string

from millstream.integrations.django.contract import (
    Task,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
)
from millstream.primitives import errors as our_errors
from millstream.primitives.schema import us_datetime
from millstream.tasks.contract import TaskEngine
from millstream.tasks.message import Attempt, Progress, TaskStatus
from millstream.tasks.states import TaskState


class WorkerDied(Exception):
    """The worker process of an attempt was killed, ran out of memory, or crashed."""


class Call(msgspec.Struct, frozen=True):
    """The stored arguments of a call. ``priority`` and ``run_after`` are what Django was told."""

    args: list[Any]
    kwargs: dict[str, Any]
    priority: int = 0
    run_after: datetime | None = None


class Started(msgspec.Struct, frozen=True):
    """What a running attempt tells of itself."""

    worker: str
    started_us: int
    attempt: int = 0


class Returned(msgspec.Struct, frozen=True):
    """The stored result of a call: its value, and the attempt that gave it."""

    value: Any
    worker: str
    started_us: int


_STATES = {
    TaskState.QUEUED: TaskResultStatus.READY,
    TaskState.SCHEDULED: TaskResultStatus.READY,
    TaskState.BLOCKED: TaskResultStatus.READY,
    TaskState.RETRYING: TaskResultStatus.READY,
    TaskState.RUNNING: TaskResultStatus.RUNNING,
    TaskState.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    TaskState.FAILED: TaskResultStatus.FAILED,
    TaskState.REVOKED: TaskResultStatus.FAILED,
}
_call = msgspec.msgpack.Decoder(Call).decode
_started = msgspec.msgpack.Decoder(Started).decode
_returned = msgspec.msgpack.Decoder(Returned).decode


@dataclass(frozen=True, slots=True)
class _Seen:
    """All that the store has of one call, of one moment."""

    status: TaskStatus
    call: Call
    attempts: Sequence[Attempt]
    progress: Progress | None


def read_result(engine: TaskEngine, task_id: str, alias: str) -> TaskResult:
    """Return a call as the store knows it now. Raises TaskResultDoesNotExist."""
    seen = _look(engine, task_id)
    status, call = seen.status, seen.call
    task = task_of(status.name, task_id).using(
        priority=call.priority,
        queue_name=status.queue,
        run_after=local_time(call.run_after),
        backend=alias,
    )
    state = _STATES[status.state]
    starts = [Started(one.worker, one.started_us) for one in seen.attempts]
    value: Any = None
    if status.state is TaskState.SUCCEEDED and status.result is not None:
        returned = _returned(status.result)
        value = returned.value
        starts.append(Started(returned.worker, returned.started_us))
    elif status.state is TaskState.RUNNING:
        running = _running(seen)
        if running is None:
            state = TaskResultStatus.READY  # A worker holds it, and has not come to it.
        else:
            starts.append(running)
    result = TaskResult(
        task=task,
        id=task_id,
        status=state,
        enqueued_at=_time(status.enqueued_us),
        started_at=_time(starts[0].started_us) if starts else None,
        last_attempted_at=_time(starts[-1].started_us) if starts else None,
        finished_at=_time(status.finished_us),
        args=call.args,
        kwargs=call.kwargs,
        backend=alias,
        errors=_errors(seen),
        worker_ids=[start.worker for start in starts],
    )
    object.__setattr__(result, "_return_value", value)
    return result


def _look(engine: TaskEngine, task_id: str) -> _Seen:
    while True:
        status = engine.status(task_id)
        arguments = engine.control.arguments(task_id)
        if status is None or arguments is None:
            raise TaskResultDoesNotExist(task_id)
        attempts, progress = engine.attempts(task_id), engine.control.progress(task_id)
        # These are several reads: an attempt may have begun or ended between them.
        if engine.status(task_id) == status:
            return _Seen(status, _read_call(arguments, task_id), attempts, progress)


def _running(seen: _Seen) -> Started | None:
    """Return the attempt that runs, if it has said so; what is there may be from the one before."""
    if seen.progress is None:
        return None
    started = _started(seen.progress.meta)
    return started if started.attempt == seen.status.attempt else None


def task_of(path: str, task_id: str) -> Task:
    """Return the task that is defined at ``path``. Raises TaskResultDoesNotExist when there is none."""
    try:
        task = import_string(path)
    except ImportError as error:
        raise TaskResultDoesNotExist(f"{task_id}: {error}") from error
    if not isinstance(task, Task):
        raise TaskResultDoesNotExist(f"{task_id}: {path} is no task of Django")
    return task


def error_path(error_type: str) -> str:
    """Return where the class of a recorded error is imported from."""
    if "." in error_type:
        return error_type
    if error_type == WorkerDied.__name__:
        return f"{WorkerDied.__module__}.{WorkerDied.__name__}"
    home = builtins if hasattr(builtins, error_type) else our_errors
    return f"{home.__name__}.{error_type}"


def local_time(moment: datetime | None) -> datetime | None:
    """Return a time as Django gives times: aware, or with ``USE_TZ = False`` naive in the default time zone."""
    if moment is None or settings.USE_TZ:
        return moment
    naive: datetime = timezone.make_naive(moment)
    return naive


def _read_call(arguments: bytes, task_id: str) -> Call:
    try:
        return _call(arguments)
    except msgspec.MsgspecError as error:
        raise TaskResultDoesNotExist(f"{task_id}: no call of Django's: {error}") from error


def _errors(seen: _Seen) -> list[TaskError]:
    found = [
        TaskError(
            exception_class_path=error_path(one.error_type),
            traceback=one.traceback or f"{one.error_type}: {one.error}",
        )
        for one in seen.attempts
    ]
    if seen.status.state is TaskState.REVOKED:
        revoked = our_errors.TaskRevoked
        found.append(
            TaskError(
                exception_class_path=f"{revoked.__module__}.{revoked.__name__}",
                traceback=f"{revoked.__name__}: {seen.status.revoke_reason}",
            )
        )
    return found


def _time(moment_us: int | None) -> datetime | None:
    return None if moment_us is None else local_time(us_datetime(moment_us))
