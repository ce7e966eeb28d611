"""``@app.task``: functions that can be called here, or sent to a worker."""

from __future__ import annotations

import inspect
import pathlib
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, overload

import msgspec

from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError, UnknownTask
from millstream.primitives.identity import new_id
from millstream.primitives.schema import datetime_us
from millstream.tasks.arguments import Arguments, Returned, decode_plain
from millstream.tasks.contract import TaskEngine
from millstream.tasks.limits import TASKS_PER_COMMIT_MAX
from millstream.tasks.message import TaskMessage
from millstream.tasks.options import (
    PRIORITY_DEFAULT,
    QUEUE_DEFAULT,
    TaskOptions,
    check_name,
    check_priority,
)
from millstream.tasks.result import AsyncResult
from millstream.tasks.retry import BackoffLike, RetryPolicy, backoff_of

P = ParamSpec("P")
R = TypeVar("R")

EngineProvider = Callable[[], TaskEngine]


class Signature(msgspec.Struct, Generic[R], frozen=True):
    """A call that is not sent yet: ``task.s(…)``. Checked when it is sent."""

    task: Any  # AnyTask[..., R], which is defined below and holds no place for its type.
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    countdown: float | timedelta | None = None
    eta: datetime | None = None
    queue: str | None = None
    priority: int | None = None
    task_id: str | None = None

    def set(
        self,
        *,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        task_id: str | None = None,
    ) -> Signature[R]:
        """Return the same call with these options, see ``apply_async``."""
        return msgspec.structs.replace(
            self, countdown=countdown, eta=eta, queue=queue, priority=priority, task_id=task_id
        )

    def message(self, now_us: int) -> TaskMessage:
        """Return the call as it is stored. Raises TaskArgumentError or ConfigurationError."""
        options = self.task.options
        if self.queue is not None:
            check_name("queue", self.queue)
        if self.priority is not None:
            check_priority(self.priority)
        if self.task_id is not None:
            check_name("task", self.task_id)
        return TaskMessage(
            id=self.task_id if self.task_id is not None else new_id(),
            name=self.task.name,
            queue=options.queue if self.queue is None else self.queue,
            priority=options.priority if self.priority is None else self.priority,
            arguments=self.task.arguments.encode(self.args, self.kwargs),
            acks_late=options.acks_late,
            eta_us=_eta_us(self.countdown, self.eta, now_us),
        )


class AnyTask(Generic[P, R]):
    """What all tasks share: name, options, and ways to be sent. Immutable; any thread."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        options: TaskOptions,
        engine: EngineProvider,
    ) -> None:
        """Wrap ``function``; signature and annotations are read at first use."""
        self.function = function
        self.name = name
        self.options = options
        self._engine = engine
        self.is_async = inspect.iscoroutinefunction(function)
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    @cached_property
    def arguments(self) -> Arguments:
        """The parameters, for storing calls."""
        return Arguments(self.function, task=self.name)

    @cached_property
    def returned(self) -> Returned:
        """The return annotation, for storing results."""
        return Returned(self.function, task=self.name)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a call to the workers; return when it is durable.

        Raises TaskArgumentError when the arguments do not fit the annotations, and StoreError; nothing is sent then.
        """
        return self._send(Signature(self, args, kwargs))

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        task_id: str | None = None,
    ) -> AsyncResult[R]:
        """Send a call with options; as ``delay`` otherwise.

        ``countdown`` (seconds or timedelta) or ``eta`` (aware datetime): not before then; waits in the store.
        ``priority``: 0 to 9, 9 first. ``task_id``: a call of an id that is stored already is not stored again.
        """
        signature = Signature[R](
            self, tuple(args), kwargs or {}, countdown, eta, queue, priority, task_id
        )
        return self._send(signature)

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Return a call that is not sent yet."""
        return Signature(self, args, kwargs)

    def enqueue_many(self, calls: Iterable[Signature[R]]) -> list[AsyncResult[R]]:
        """Send many calls in one commit, all or none: ``task.enqueue_many(task.s(x) for x in xs)``."""
        return send(self._engine(), calls)

    def result(self, task_id: str) -> AsyncResult[R]:
        """Return the handle of a call that was sent earlier, by any process."""
        return AsyncResult(task_id, engine=self._engine(), decode=self._decode)

    def __repr__(self) -> str:
        """Return the name, and whether it is async."""
        return f"<{'async ' if self.is_async else ''}task {self.name}>"

    def _decode(self, data: bytes) -> Any:  # noqa: ANN401 - the annotation of the user's function
        return self.returned.decode(data)

    def _send(self, signature: Signature[R]) -> AsyncResult[R]:
        engine = self._engine()
        message = signature.message(engine.now_us())
        engine.enqueue((message,))
        return AsyncResult(message.id, engine=engine, decode=self._decode)


class Task(AnyTask[P, R]):
    """A plain function as a task."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now; nothing is stored."""
        result: R = self.function(*args, **kwargs)
        return result


class CoroutineTask(AnyTask[P, R]):
    """An ``async def`` function as a task; its result is what it returns when awaited."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return the coroutine; nothing is stored."""
        coroutine: Coroutine[Any, Any, R] = self.function(*args, **kwargs)
        return coroutine


def send(engine: TaskEngine, calls: Iterable[Signature[R]]) -> list[AsyncResult[R]]:
    """Store many calls in one commit, all or none. Raises what ``delay`` raises, and for too many calls."""
    now_us = engine.now_us()
    messages: list[TaskMessage] = []
    results: list[AsyncResult[R]] = []
    for call in calls:
        if len(messages) == TASKS_PER_COMMIT_MAX:
            _refuse_too_many()
        message = call.message(now_us)
        messages.append(message)
        results.append(AsyncResult(message.id, engine=engine, decode=call.task._decode))
    engine.enqueue(messages)
    return results


class TaskRegistry:
    """The tasks of one app by name. Fill it while importing; read it from any thread."""

    def __init__(self, *, engine: EngineProvider) -> None:
        """``engine`` is called when a task is first sent, so that importing an app opens no store."""
        self._engine = engine
        self._tasks: dict[str, AnyTask[..., Any]] = {}

    @overload
    def task(  # type: ignore[overload-overlap]  # A coroutine function is also a function.
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        retries: int = 3,
        backoff: BackoffLike = "exponential",
        autoretry_for: tuple[type[BaseException], ...] = (Exception,),
        queue: str = QUEUE_DEFAULT,
        priority: int = PRIORITY_DEFAULT,
        acks_late: bool = True,
        result_ttl: Duration = "1d",
    ) -> TaskDecorator: ...

    def task(  # noqa: PLR0913 - each is an option of its own
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retries: int = 3,
        backoff: BackoffLike = "exponential",
        autoretry_for: tuple[type[BaseException], ...] = (Exception,),
        queue: str = QUEUE_DEFAULT,
        priority: int = PRIORITY_DEFAULT,
        acks_late: bool = True,
        result_ttl: Duration = "1d",
    ) -> Any:
        """Make a function a task: ``@app.task`` or ``@app.task(retries=5, queue="mail")``.

        ``name``: what messages call it (module and function otherwise). ``retries``: attempts after the first, for the
        errors in ``autoretry_for``, with delays by ``backoff``. ``queue`` and ``priority`` (0 to 9, 9 first): where
        its calls wait. ``acks_late``: True runs a task again whose worker died; False fails it, so that it runs at most
        once. ``result_ttl``: how long a result is kept; ``"0s"`` keeps none. Raises ConfigurationError.
        """
        options = TaskOptions(
            policy=RetryPolicy(retries, backoff_of(backoff), autoretry_for),
            queue=queue,
            priority=priority,
            acks_late=acks_late,
            result_ttl_us=duration_us(result_ttl),
        )
        decorator = TaskDecorator(self, name, options)
        return decorator if function is None else decorator(function)

    def get(self, name: str) -> AnyTask[..., Any]:
        """Return the task of that name. Raises UnknownTask."""
        try:
            return self._tasks[name]
        except KeyError:
            raise UnknownTask(
                f"there is no task {name!r}",
                expected=", ".join(sorted(self._tasks)) or "a function with @app.task",
                next_step="import the module that defines it where the app is made",
            ) from None

    def names(self) -> list[str]:
        """Return the names of all tasks, sorted."""
        return sorted(self._tasks)

    def enqueue_many(self, calls: Iterable[Signature[Any]]) -> list[AsyncResult[Any]]:
        """Send calls of several tasks in one commit, all or none."""
        return send(self._engine(), calls)

    def result(self, task_id: str) -> AsyncResult[Any]:
        """Return the handle of a call by its id alone; results of unknown tasks are plain data."""
        engine = self._engine()
        status = engine.status(task_id)
        task = self._tasks.get(status.name) if status is not None else None
        return AsyncResult(task_id, engine=engine, decode=task._decode if task else decode_plain)

    def add(
        self, function: Callable[..., Any], *, name: str | None, options: TaskOptions
    ) -> AnyTask[..., Any]:
        """Register a function and return its task. Raises ConfigurationError for a name that is taken."""
        if not (inspect.isfunction(function) or inspect.ismethod(function)):
            raise ConfigurationError(
                f"{function!r} cannot be a task", expected="a function, plain or async"
            )
        chosen = name or task_name(function)
        check_name("task", chosen)
        known = self._tasks.get(chosen)
        if known is not None and not _is_same_definition(known.function, function):
            raise ConfigurationError(
                f"two tasks are named {chosen!r}",
                where=_place_of(function),
                expected=f"one; the other is at {_place_of(known.function)}",
                next_step="give one of them a `name=`",
            )
        kind = CoroutineTask if inspect.iscoroutinefunction(function) else Task
        task: AnyTask[..., Any] = kind(function, name=chosen, options=options, engine=self._engine)
        self._tasks[chosen] = task
        return task


class TaskDecorator:
    """What ``@app.task(…)`` returns: makes a function a task of these options."""

    def __init__(self, registry: TaskRegistry, name: str | None, options: TaskOptions) -> None:
        """Remember name and options until the function comes."""
        self._registry = registry
        self._name = name
        self._options = options

    @overload
    def __call__(  # type: ignore[overload-overlap]  # A coroutine function is also a function.
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...

    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Make the function a task."""
        return self._registry.add(function, name=self._name, options=self._options)


def task_name(function: Callable[..., Any]) -> str:
    """Return ``module.function``.

    A script that is run directly is named as it will be imported by a worker: by its file, not ``__main__``.
    """
    module = function.__module__
    if module == "__main__":
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        code = getattr(inspect.unwrap(function), "__code__", None)
        if spec is not None and spec.name:
            module = spec.name.removesuffix(".__main__")
        elif code is not None:
            module = pathlib.PurePath(code.co_filename).stem
    return f"{module}.{function.__qualname__}".replace(".<locals>", "")


def _eta_us(countdown: float | timedelta | None, eta: datetime | None, now_us: int) -> int | None:
    if countdown is None:
        return None if eta is None else datetime_us(eta)
    if eta is not None:
        raise ConfigurationError(
            "both countdown and eta are given", expected="one of them", next_step="drop one"
        )
    if not isinstance(countdown, timedelta):
        countdown = timedelta(seconds=countdown)
    return now_us + countdown // timedelta(microseconds=1)


def _is_same_definition(known: Callable[..., Any], function: Callable[..., Any]) -> bool:
    # A module that is imported again (a reload) defines its tasks again.
    return (known.__module__, known.__qualname__, _place_of(known)) == (
        function.__module__,
        function.__qualname__,
        _place_of(function),
    )


def _place_of(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return repr(function)
    return f"{code.co_filename}:{code.co_firstlineno}"


def _refuse_too_many() -> NoReturn:
    raise ConfigurationError(
        f"more than {TASKS_PER_COMMIT_MAX:,} calls at once",
        expected="at most that many in one commit",
        next_step="send them in several calls of enqueue_many",
    )
