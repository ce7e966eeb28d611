"""``MillstreamBackend``: Django's tasks in a store of one directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core import checks
from django.utils import timezone

from millstream.app import App
from millstream.integrations.django.contract import (
    BaseTaskBackend,
    InvalidTask,
    InvalidTaskBackend,
    Task,
    TaskResult,
    TaskResultStatus,
    task_enqueued,
)
from millstream.integrations.django.declared import app_of, declare
from millstream.integrations.django.options import BackendOptions, backend_options
from millstream.integrations.django.priorities import stored_priority
from millstream.integrations.django.results import local_time, read_result
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.identity import new_id
from millstream.primitives.schema import us_datetime
from millstream.tasks.options import check_name

_APP = "millstream.integrations.django"


class MillstreamBackend(BaseTaskBackend):
    """Stores calls durably before ``enqueue`` returns; workers of any process run them. Any thread.

    An attempt whose worker is killed is made again by another; one that raises is final unless OPTIONS says
    ``retries``. Everything that Django's contract names is supported.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        """Read the settings; nothing is opened. What is wrong with them is said by ``check`` and by the first use."""
        super().__init__(alias, params)
        self._read: BackendOptions | None = None

    @property
    def app(self) -> App:
        """The millstream app whose tasks these are. Raises InvalidTaskBackend for wrong options."""
        return app_of(self.alias, self._options)

    def validate_task(self, task: Task) -> None:
        """Raise InvalidTask for a task that this backend cannot run."""
        super().validate_task(task)
        try:
            check_name("queue", task.queue_name)
            check_name("task", task.module_path)
        except ConfigurationError as error:
            raise InvalidTask(str(error)) from error

    def enqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """Store a call; it is durable when this returns. Raises InvalidTask, TypeError for what is no JSON, StoreError.

        In a transaction of the database it is stored at once, whatever becomes of the transaction: use
        ``transaction.on_commit`` as with every backend, or an outbox.
        """
        self.validate_task(task)
        result = TaskResult(
            task=task,
            id=new_id(),
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        app = self.app
        run_after = task.run_after
        if run_after is not None and timezone.is_naive(run_after):
            run_after = timezone.make_aware(run_after)
        call = {
            "args": result.args,
            "kwargs": result.kwargs,
            "priority": task.priority,
            "run_after": run_after,
        }
        declare(app, task, self.alias, self._options).apply_async(
            kwargs=call,
            task_id=result.id,
            queue=task.queue_name,
            priority=stored_priority(task.priority),
            eta=run_after,
        )
        enqueued_at = local_time(us_datetime(app.tasks.engine.now_us()))
        object.__setattr__(result, "enqueued_at", enqueued_at)
        task_enqueued.send(type(self), task_result=result)
        return result

    async def aenqueue(
        self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TaskResult:
        """``enqueue`` without blocking the event loop."""
        return await sync_to_async(self.enqueue)(task, args, kwargs)

    def get_result(self, result_id: str) -> TaskResult:
        """Return what is known of a call, sent by any process. Raises TaskResultDoesNotExist."""
        return read_result(self.app.tasks.engine, str(result_id), self.alias)

    async def aget_result(self, result_id: str) -> TaskResult:
        """``get_result`` without blocking the event loop."""
        return await sync_to_async(self.get_result)(result_id)

    def check(self, **_: object) -> Iterable[checks.CheckMessage]:
        """Yield what is wrong with the settings: ``manage.py check`` prints it."""
        where = f"TASKS[{self.alias!r}]"
        try:
            options = backend_options(self.options)
        except ConfigurationError as error:
            yield checks.Error(error.what, hint=error.expected, obj=where, id="millstream.E001")
            return
        parent = Path(options.store).absolute().parent
        if not parent.is_dir():
            yield checks.Error(
                f"the directory {parent} does not exist",
                hint="OPTIONS['store'] is a directory that is made in an existing one",
                obj=where,
                id="millstream.E002",
            )
        for queue in sorted(self.queues):
            try:
                check_name("queue", queue)
            except ConfigurationError as error:
                yield checks.Error(error.what, hint=error.expected, obj=where, id="millstream.E003")
        if not apps.is_installed(_APP):
            yield checks.Warning(
                "manage.py has no command millstream_worker",
                hint=f"add {_APP!r} to INSTALLED_APPS",
                obj=where,
                id="millstream.W001",
            )

    @property
    def _options(self) -> BackendOptions:
        if self._read is None:
            try:
                self._read = backend_options(self.options)
            except ConfigurationError as error:
                raise InvalidTaskBackend(f"TASKS[{self.alias!r}]: {error}") from error
        return self._read
