"""One attempt of a Django task in a worker: context, signals, connections of the database."""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Callable
from datetime import datetime
from inspect import iscoroutinefunction
from random import Random
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.db import close_old_connections, reset_queries

from millstream.integrations.django.contract import (
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
    normalize_json,
    task_backends,
    task_finished,
    task_started,
)
from millstream.integrations.django.results import Started, local_time, read_result
from millstream.primitives.schema import us_datetime
from millstream.tasks.bound import BoundTask
from millstream.tasks.contract import TaskEngine
from millstream.tasks.retry import GiveUp, after_failure

_STARTED = "STARTED"


def runner_of(task: Task, alias: str, engine: Callable[[], TaskEngine]) -> Callable[..., Any]:
    """Return the function that a worker calls for calls of ``task``: plain or ``async def``, as the task's own is."""

    def run(
        attempt: BoundTask,
        /,
        args: list[Any],
        kwargs: dict[str, Any],
        priority: int = 0,
        run_after: datetime | None = None,
    ) -> Any:  # noqa: ANN401 - what the task returns, and who ran it
        running = _Attempt(task, alias, engine(), attempt)
        running.begin()
        try:
            ended = running.returned(task.func(*running.context, *args, **kwargs))
        except BaseException as error:
            running.failed(error)
            raise
        running.succeeded(ended)
        return ended

    async def run_async(
        attempt: BoundTask,
        /,
        args: list[Any],
        kwargs: dict[str, Any],
        priority: int = 0,
        run_after: datetime | None = None,
    ) -> Any:  # noqa: ANN401 - as above
        # Django's database, and receivers of signals, do not run in an event loop.
        running = _Attempt(task, alias, engine(), attempt)
        await sync_to_async(running.begin)()
        try:
            ended = running.returned(await task.func(*running.context, *args, **kwargs))
        except BaseException as error:
            await sync_to_async(running.failed)(error)
            raise
        await sync_to_async(running.succeeded)(ended)
        return ended

    return run_async if iscoroutinefunction(task.func) else run


class _Attempt:
    """From its start to its end. Belongs to the thread, or the coroutine, that runs the task."""

    def __init__(self, task: Task, alias: str, engine: TaskEngine, attempt: BoundTask) -> None:
        self._task = task
        self._alias = alias
        self._engine = engine
        self._attempt = attempt
        worker = f"{platform.node()}:{os.getpid()}"  # As the attempts that the store records.
        self._started = Started(worker, engine.now_us(), attempt.request.attempt)
        self._result: TaskResult | None = None

    @property
    def context(self) -> tuple[TaskContext, ...]:
        """The first argument of a task that takes it."""
        if not self._task.takes_context:
            return ()
        return (TaskContext(task_result=self._result),)

    def begin(self) -> None:
        # As for each request: a connection that is broken or too old is opened anew.
        reset_queries()
        close_old_connections()
        self._attempt.update_state(state=_STARTED, meta=msgspec.structs.asdict(self._started))
        self._result = read_result(self._engine, self._attempt.request.id, self._alias)
        self._send(task_started)

    def returned(self, value: Any) -> dict[str, Any]:  # noqa: ANN401 - what the task returned
        """Return what is stored. Raises TypeError for what is no JSON, PayloadError for what is too large."""
        started = self._started
        plain = normalize_json(value)
        ended = {"value": plain, "worker": started.worker, "started_us": started.started_us}
        self._attempt.task.returned.encode(ended)  # Before anyone is told that it was successful.
        return ended

    def succeeded(self, ended: dict[str, Any]) -> None:
        """Tell of the success."""
        self._end(TaskResultStatus.SUCCESSFUL, ended["value"])

    def failed(self, error: BaseException) -> None:
        """Tell of the failure if no attempt follows it."""
        policy = self._attempt.task.options.policy
        failures = self._attempt.request.retries + 1
        verdict = after_failure(policy, failures=failures, error=error, chance=Random(0))
        if not isinstance(verdict, GiveUp):
            close_old_connections()
            return
        kind = type(error)
        path = f"{kind.__module__}.{kind.__qualname__}"
        text = "".join(traceback.format_exception(error))
        if self._result is not None:
            self._result.errors.append(TaskError(exception_class_path=path, traceback=text))
        self._end(TaskResultStatus.FAILED, None)

    def _end(self, status: TaskResultStatus, value: Any) -> None:  # noqa: ANN401 - as above
        if self._result is not None:
            ended_at = local_time(us_datetime(self._engine.now_us()))
            object.__setattr__(self._result, "status", status)
            object.__setattr__(self._result, "finished_at", ended_at)
            object.__setattr__(self._result, "_return_value", value)
            self._send(task_finished)
        close_old_connections()

    def _send(self, signal: Any) -> None:  # noqa: ANN401 - Django has no types
        signal.send(sender=type(task_backends[self._alias]), task_result=self._result)
