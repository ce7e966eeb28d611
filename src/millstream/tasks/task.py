"""A task: a function that can be called here, or sent to a worker."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, Unpack

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.arguments import Arguments, Returned
from millstream.tasks.bound import BoundBatch, bound_directly
from millstream.tasks.contract import TaskEngine
from millstream.tasks.dependencies import Opening, Overrides, openings_of
from millstream.tasks.gates import limit_of
from millstream.tasks.limits import TASKS_PER_COMMIT_MAX
from millstream.tasks.message import TaskMessage
from millstream.tasks.opened import acall_with, call_with
from millstream.tasks.options import TaskOptions
from millstream.tasks.result import AsyncResult
from millstream.tasks.row_calls import RowCalls
from millstream.tasks.shape import Shape, shape_of
from millstream.tasks.signals import BeforeTaskPublish, Signals
from millstream.tasks.signature import CallKeywords, Signature
from millstream.tasks.workflow import asend_workflow, send_workflow

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")

EngineProvider = Callable[[], TaskEngine]


class AnyTask(Generic[P, R]):
    """What all tasks share: name, options, and ways to be sent. Immutable; any thread."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        options: TaskOptions,
        engine: EngineProvider,
        signals: Signals,
        bind: bool = False,
        overrides: Overrides | None = None,
    ) -> None:
        """Wrap ``function``; signature and annotations are read at first use. ``overrides`` may change later."""
        self.function = function
        self.signals = signals
        self.name = name
        self.options = options
        self.bind = bind
        """Whether the function's first argument is a ``BoundTask``."""
        self.limit = limit_of(name, concurrency=options.concurrency, rate=options.rate_limit)
        self.is_conditional = (
            options.expires_us is not None
            or options.unique is not None
            or bool(options.lock)
            or self.limit is not None
        )
        """Whether more than a claim decides when its calls start."""
        self._engine = engine
        self._overrides = {} if overrides is None else overrides
        self.is_async = inspect.iscoroutinefunction(function)
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__module__ = function.__module__
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    @cached_property
    def shape(self) -> Shape:
        """The parameters of one call, and what it returns."""
        is_batch = self.options.batch is not None
        return shape_of(self.function, task=self.name, bind=self.bind, batch=is_batch)

    @cached_property
    def arguments(self) -> Arguments:
        """The parameters, for storing calls. Raises ConfigurationError for types that cannot be stored."""
        arguments = Arguments(self.shape)
        _ = self.returned  # Refused now, and not when the function has run.
        return arguments

    @cached_property
    def returned(self) -> Returned:
        """The return annotation, for storing results."""
        return Returned(self.shape)

    @property
    def openings(self) -> Mapping[str, Opening]:
        """How to open what the function needs beside its arguments, by parameter. Raises ConfigurationError."""
        return self._opened_by(self._overrides) if self._overrides else self._own_openings

    @cached_property
    def _own_openings(self) -> Mapping[str, Opening]:
        return self._opened_by({})

    def _opened_by(self, overrides: Overrides) -> Mapping[str, Opening]:
        needs = self.shape.dependencies
        where = f"task {self.name!r}"
        return openings_of(needs, overrides, where=where, is_async=self.is_async) if needs else {}

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a call to the workers; return when it is durable.

        Raises TaskArgumentError when the arguments do not fit the annotations, and StoreError; nothing is sent then.
        """
        return self.send(Signature(self, args, kwargs))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """``delay`` without blocking the event loop: ``result = await task.adelay(…)``."""
        return await self.asend(Signature(self, args, kwargs))

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallKeywords],
    ) -> AsyncResult[R]:
        """Send a call with options; as ``delay`` otherwise.

        ``countdown`` (seconds or timedelta) or ``eta`` (aware datetime): not before then; waits in the store.
        ``expires`` (seconds or timedelta from now, or an aware datetime): no attempt starts then or later; the task is
        revoked. ``queue``: where it waits. ``priority``: 0 to 9, 9 first. ``task_id``: a call of an id that is stored
        already is not stored again. ``soft_time_limit``, ``time_limit`` (seconds or timedelta): of each attempt,
        instead of those of the task. ``link`` and ``link_error``: calls that are sent when it has succeeded, with its
        result, and when it has failed for good; see ``Signature``.
        """
        return self.send(Signature(self, tuple(args), kwargs or {}, **options))

    async def aapply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallKeywords],
    ) -> AsyncResult[R]:
        """``apply_async`` without blocking the event loop."""
        return await self.asend(Signature(self, tuple(args), kwargs or {}, **options))

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Return a call that is not sent yet."""
        return Signature(self, args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Return a call that is not sent yet and takes no result of a task before it."""
        return Signature(self, args, kwargs, immutable=True)

    def row_calls(self) -> RowCalls:
        """Return a call for each row of a flow, see ``Flow.enqueue``."""
        return RowCalls(Signature(self, (), {}))

    def map(self, values: Iterable[Any]) -> list[AsyncResult[R]]:
        """Send one call for each value, its only argument, in one commit, all or none."""
        return send(self._engine(), (Signature(self, (value,), {}) for value in values))

    def starmap(self, values: Iterable[Iterable[Any]]) -> list[AsyncResult[R]]:
        """Send one call for each sequence of arguments in one commit, all or none."""
        return send(self._engine(), (Signature(self, tuple(args), {}) for args in values))

    def enqueue_many(self, calls: Iterable[Signature[R]]) -> list[AsyncResult[R]]:
        """Send many calls in one commit, all or none: ``task.enqueue_many(task.s(x) for x in xs)``."""
        return send(self._engine(), calls)

    def result(self, task_id: str) -> AsyncResult[R]:
        """Return the handle of a call that was sent earlier, by any process."""
        return AsyncResult(task_id, engine=self._engine(), decode=self.decode)

    def send(self, call: Signature[R]) -> AsyncResult[R]:
        """Send a call of this task, see ``delay``."""
        if call.link or call.link_error:
            return send_workflow(call)
        engine = self._engine()
        message = _announced(call, engine.now_us())
        standing = engine.enqueue((message,))
        return AsyncResult(
            standing.get(message.id, message.id) if standing else message.id,
            engine=engine,
            decode=self.decode,
        )

    async def asend(self, call: Signature[R]) -> AsyncResult[R]:
        """Send a call of this task without blocking the event loop."""
        if call.link or call.link_error:
            return await asend_workflow(call)
        engine = self._engine()
        message = _announced(call, engine.now_us())
        standing = await engine.aenqueue((message,))
        return AsyncResult(standing.get(message.id, message.id), engine=engine, decode=self.decode)

    def decode(self, data: bytes) -> Any:  # noqa: ANN401 - the annotation of the user's function
        """Return the stored result as what the function's annotation says."""
        return self.returned.decode(data)

    def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        bound = (bound_directly(self, args, kwargs),) if self.bind else ()
        return self._with_dependencies((*bound, *args), kwargs)

    def _with_dependencies(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Call the function; what it needs and was not given is opened for this call alone, and closed after it."""
        if not self.shape.dependencies:
            return self.function(*args, **kwargs)
        given = inspect.signature(self.function).bind_partial(*args, **kwargs).arguments
        missing = {name: one for name, one in self.openings.items() if name not in given}
        call = acall_with if self.is_async else call_with
        return call(missing, None, lambda values: self.function(*args, **kwargs, **values))

    def __repr__(self) -> str:
        """Return the name, and whether it is async."""
        return f"<{'async ' if self.is_async else ''}task {self.name}>"


class Task(AnyTask[P, R]):
    """A plain function as a task."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now; nothing is stored."""
        result: R = self._called(args, kwargs)
        return result


class CoroutineTask(AnyTask[P, R]):
    """An ``async def`` function as a task; its result is what it returns when awaited."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return the coroutine; nothing is stored."""
        coroutine: Coroutine[Any, Any, R] = self._called(args, kwargs)
        return coroutine


class BatchTask(AnyTask[[A], R]):
    """A plain function that is called once for many calls; each of them has an id, a state and a result of its own."""

    def __call__(self, items: Sequence[A]) -> Sequence[R | Exception] | None:
        """Run the function here and now for what so many calls would be given; nothing is stored."""
        result: Sequence[R | Exception] | None = self._called_with(items)
        return result

    def _called_with(self, items: Sequence[A]) -> Any:  # noqa: ANN401 - what the user's function returns
        calls = [bound_directly(self, (item,), {}) for item in items] if self.bind else []
        bound = (BoundBatch(self, calls),) if self.bind else ()
        return self._with_dependencies((*bound, list(items)), {})


class CoroutineBatchTask(BatchTask[A, R]):
    """An ``async def`` function that is called once for many calls."""

    def __call__(  # type: ignore[override]  # Awaited, as what an async def returns.
        self, items: Sequence[A]
    ) -> Coroutine[Any, Any, Sequence[R | Exception] | None]:
        """Return the coroutine; nothing is stored."""
        coroutine: Coroutine[Any, Any, Sequence[R | Exception] | None] = self._called_with(items)
        return coroutine


def messages_of(calls: Iterable[Signature[Any]], now_us: int) -> list[TaskMessage]:
    """Return the stored form of calls. Raises what ``delay`` raises, and for too many calls."""
    messages: list[TaskMessage] = []
    for call in calls:
        if len(messages) == TASKS_PER_COMMIT_MAX:
            _refuse_too_many()
        messages.append(_announced(call, now_us))
    return messages


def _announced(call: Signature[Any], now_us: int) -> TaskMessage:
    """Return the stored form of a call, and tell that it is about to be stored."""
    message = call.message(now_us)
    signal = call.task.signals.before_task_publish
    if signal.receivers:
        signal.send(BeforeTaskPublish(message=message))
    return message


def send(engine: TaskEngine, calls: Iterable[Signature[R]]) -> list[AsyncResult[R]]:
    """Store many calls in one commit, all or none. Raises what ``delay`` raises, and for too many calls."""
    decoders: list[Callable[[bytes], Any]] = []

    def remembered() -> Iterator[Signature[R]]:
        for call in calls:
            decoders.append(call.task.decode)
            yield call

    messages = messages_of(remembered(), engine.now_us())
    standing = engine.enqueue(messages)
    return [
        AsyncResult(standing.get(message.id, message.id), engine=engine, decode=decode)
        for message, decode in zip(messages, decoders, strict=True)
    ]


def _refuse_too_many() -> NoReturn:
    raise ConfigurationError(
        f"more than {TASKS_PER_COMMIT_MAX:,} calls at once",
        expected="at most that many in one commit",
        next_step="send them in several calls of enqueue_many",
    )
