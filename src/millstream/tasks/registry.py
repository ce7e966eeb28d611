"""``@app.task``: the tasks of an app by name, and sending by name."""

from __future__ import annotations

import inspect
import pathlib
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

from millstream.primitives.errors import ConfigurationError, UnknownTask
from millstream.tasks.arguments import any_arguments, decode_plain
from millstream.tasks.batch import Batch
from millstream.tasks.contract import TaskEngine
from millstream.tasks.control import TaskControl
from millstream.tasks.decorators import (
    BatchDecorator,
    BoundBatchDecorator,
    BoundTaskDecorator,
)
from millstream.tasks.dependencies import Provider
from millstream.tasks.discovery import Discovery, Packages, run_all
from millstream.tasks.options import (
    PRIORITY_DEFAULT,
    QUEUE_DEFAULT,
    TaskKeywords,
    TaskOptions,
    check_name,
    options_of,
    with_defaults,
)
from millstream.tasks.result import AsyncResult
from millstream.tasks.routes import RoutesLike, routes_of
from millstream.tasks.signals import Signals
from millstream.tasks.signature import CallKeywords, Signature
from millstream.tasks.task import (
    AnyTask,
    BatchTask,
    CoroutineBatchTask,
    CoroutineTask,
    EngineProvider,
    Task,
    send,
)

P = ParamSpec("P")
R = TypeVar("R")


class TaskRegistry:
    """The tasks of one app by name. Fill it while importing; read it from any thread."""

    def __init__(
        self,
        *,
        engine: EngineProvider,
        defaults: TaskKeywords | None = None,
        routes: RoutesLike = (),
    ) -> None:
        """``engine`` is called when a task is first sent, so that importing an app opens no store.

        ``defaults`` are options of all tasks that do not say otherwise; ``routes`` say where calls wait, by the name of
        the task. Raises ConfigurationError.
        """
        self._engine = engine
        self._defaults: TaskKeywords = {} if defaults is None else defaults
        self._routes = routes_of(routes)
        options_of(self._defaults)
        self._discoveries: list[Discovery] = []
        self._substitute: TaskEngine | None = None
        self._tasks: dict[str, AnyTask[..., Any]] = {}
        self._overrides: dict[Provider, Provider] = {}
        self._load: Callable[[str], None] | None = None
        self.signals = Signals()
        """What your functions are told of tasks and workers."""

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
        bind: Literal[False] = False,
        **options: Unpack[TaskKeywords],
    ) -> TaskDecorator: ...

    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        bind: Literal[True],
        **options: Unpack[TaskKeywords],
    ) -> BoundTaskDecorator: ...

    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        batch: Batch,
        name: str | None = None,
        bind: Literal[False] = False,
        **options: Unpack[TaskKeywords],
    ) -> BatchDecorator: ...

    @overload
    def task(
        self,
        function: None = None,
        /,
        *,
        batch: Batch,
        name: str | None = None,
        bind: Literal[True],
        **options: Unpack[TaskKeywords],
    ) -> BoundBatchDecorator: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        bind: bool = False,
        batch: Batch | None = None,
        **options: Unpack[TaskKeywords],
    ) -> Any:
        """Make a function a task: ``@app.task`` or ``@app.task(retries=5, queue="mail")``.

        ``name``: what messages call it (module and function otherwise). ``bind``: its first argument is
        a ``BoundTask``.

        ``retries`` (or ``max_retries``; None as many as there may be): attempts after the first, for the errors in
        ``autoretry_for`` but not in ``dont_autoretry_for``, with delays by ``backoff``. ``retry_on`` maps errors to
        rules of their own: a number of retries, or a pair of number and backoff. Celery's ``retry_backoff``,
        ``retry_backoff_max``, ``retry_jitter`` and ``default_retry_delay`` are understood where ``backoff`` is not
        given.

        ``queue`` and ``priority`` (0 to 9, 9 first): where its calls wait. ``expires``: seconds after which a call that
        was not started is revoked. ``acks_late``: True runs a task again whose worker died; False fails it, so that it
        runs at most once. ``result_ttl``: how long a result is kept; ``"0s"``, or ``ignore_result``, keeps none.

        ``unique``: calls with the same arguments are stored once, see ``Unique``. ``lock``: calls that name the same
        lock run one at a time; a text may have parameters in braces, True is one lock for the task. ``concurrency``
        and ``rate_limit`` (``"10/m"``): how many run at once, and how many start, over all workers.
        ``soft_time_limit`` and ``time_limit`` (seconds or timedelta) bound each attempt: after the first
        SoftTimeLimitExceeded is raised inside the task, after the second its process is ended, and the attempt has
        failed with TimeLimitExceeded. ``memory_limit`` (``"500MB"``) ends it likewise, with MemoryLimitExceeded, when
        its process takes more. A worker whose pool cannot keep a limit refuses to start.
        ``schedule``: when it is called by itself without arguments, see ``app.schedule``.
        ``batch``: the function is called once for many calls, with the list of what each was given, see ``Batch``.
        Raises ConfigurationError.
        """
        decorator = TaskDecorator(self, name, options, batch=batch, bind=bind)
        return decorator if function is None else decorator(function)

    def get(self, name: str) -> AnyTask[..., Any]:
        """Return the task of that name. Raises UnknownTask."""
        if self._discoveries and name not in self._tasks:
            self.discover()
        if name not in self._tasks and self._load is not None:
            self._load(name)
        try:
            return self._tasks[name]
        except KeyError:
            raise UnknownTask(
                f"there is no task {name!r}",
                expected=", ".join(sorted(self._tasks)) or "a function with @app.task",
                next_step="import the module that defines it where the app is made",
            ) from None

    def find(self, name: str) -> AnyTask[..., Any] | None:
        """Return the task of that name, or None."""
        try:
            return self.get(name)
        except UnknownTask:
            return None

    def __contains__(self, name: object) -> bool:
        """Tell whether a task of that name is declared already; nothing is loaded."""
        return name in self._tasks

    def load_by(self, loader: Callable[[str], None]) -> None:
        """Let ``loader`` declare tasks when they are first asked for, by name; it raises UnknownTask if it cannot."""
        self._load = loader

    def autodiscover(
        self, packages: Packages, *, related_name: str | None = "tasks", where: str = "autodiscover"
    ) -> None:
        """Import the modules that declare tasks when they are needed: ``app.autodiscover(["shop", "mail"])``.

        Of each package its module ``related_name``, or with None the package itself. ``packages`` may be a function
        that returns them. Workers and commands import them when they start, other processes when a task is asked for by
        a name that they do not know. Raises ConfigurationError then, for a package that cannot be imported, and if no
        package has such a module; what a module raises passes.
        """
        self._discoveries.append(Discovery(packages, related_name, where))

    def discover(self) -> None:
        """Import what ``autodiscover`` named, if that was not done yet."""
        # Kept until all are imported: of two threads that come at once, none finds half of the tasks.
        run_all(self._discoveries)
        self._discoveries.clear()

    def names(self) -> list[str]:
        """Return the names of all tasks, sorted."""
        self.discover()
        return sorted(self._tasks)

    def batches(self) -> dict[str, Batch]:
        """Return the tasks that are called once for many calls."""
        options = {name: task.options.batch for name, task in self._tasks.items()}
        return {name: batch for name, batch in options.items() if batch is not None}

    def enqueue_many(self, calls: Iterable[Signature[Any]]) -> list[AsyncResult[Any]]:
        """Send calls of several tasks in one commit, all or none."""
        return send(self._current(), calls)

    def send_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallKeywords],
    ) -> AsyncResult[Any]:
        """Send a call by the task's name; options as in ``AnyTask.apply_async``.

        A task that is not declared here is sent as it is: its arguments are plain data, checked by the worker, and its
        calls wait in the queue ``default`` unless you name another.
        """
        return self.signature(name, args, kwargs).apply_async(**options)

    def signature(
        self, name: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Signature[Any]:
        """Return a call by the task's name that is not sent yet."""
        task = self._tasks.get(name)
        if task is None:
            check_name("task", name)
            said = with_defaults(self._routes.of(name), self._defaults)
            options = TaskOptions(
                queue=said.get("queue", QUEUE_DEFAULT),
                priority=said.get("priority", PRIORITY_DEFAULT),
            )
            task = Task(
                _undeclared, name=name, options=options, engine=self._current, signals=self.signals
            )
            task.__dict__["arguments"] = any_arguments(name)
        return Signature(task, tuple(args), kwargs or {})

    @contextmanager
    def override(self, provider: Provider, substitute: Provider) -> Iterator[None]:
        """Let ``substitute`` give what ``provider`` gives, to all tasks of this process, while the block lasts.

        For tests: ``with app.override(connect, lambda: FakeConnection()): …``. Not for a worker that runs already: what
        it has opened for all of its tasks stays.
        """
        before = self._overrides.get(provider)
        self._overrides[provider] = substitute
        try:
            yield
        finally:
            del self._overrides[provider]
            if before is not None:
                self._overrides[provider] = before

    def substitute(self, engine: TaskEngine | None) -> None:
        """Send everything to ``engine`` from now on, or with None to the app's own again. For tests."""
        self._substitute = engine

    def _current(self) -> TaskEngine:
        return self._engine() if self._substitute is None else self._substitute

    @property
    def engine(self) -> TaskEngine:
        """The engine that stores the calls; opens the store."""
        return self._current()

    @property
    def control(self) -> TaskControl:
        """What may be done to tasks that were sent: list, revoke, requeue, purge, pause a queue."""
        return self._current().control

    def result(self, task_id: str) -> AsyncResult[Any]:
        """Return the handle of a call by its id alone; results of unknown tasks are plain data."""
        engine = self._current()
        status = engine.status(task_id)
        task = self.find(status.name) if status is not None else None
        return AsyncResult(task_id, engine=engine, decode=task.decode if task else decode_plain)

    def options_for(self, name: str, own: TaskKeywords, batch: Batch | None = None) -> TaskOptions:
        """Return the options of a task: its own first, then its route, then the defaults. Raises ConfigurationError."""
        routed = with_defaults(own, self._routes.of(name))
        return options_of(with_defaults(routed, self._defaults), batch=batch)

    def add(
        self,
        function: Callable[..., Any],
        *,
        name: str | None,
        options: TaskOptions,
        bind: bool = False,
    ) -> AnyTask[..., Any]:
        """Register a function and return its task. Raises ConfigurationError for a name that is taken."""
        _refuse_other_than_functions(function)
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
        is_batch = options.batch is not None
        is_async = inspect.iscoroutinefunction(function)
        kind: Any = _KINDS[is_batch, is_async]
        task: AnyTask[..., Any] = kind(
            function,
            name=chosen,
            options=options,
            engine=self._current,
            signals=self.signals,
            bind=bind,
            overrides=self._overrides,
        )
        self._tasks[chosen] = task
        return task


_KINDS = {
    (False, False): Task,
    (False, True): CoroutineTask,
    (True, False): BatchTask,
    (True, True): CoroutineBatchTask,
}


class TaskDecorator:
    """What ``@app.task(…)`` returns: makes a function a task of these options."""

    def __init__(
        self,
        registry: TaskRegistry,
        name: str | None,
        options: TaskKeywords,
        *,
        batch: Batch | None,
        bind: bool,
    ) -> None:
        """Remember name and options until the function comes; wrong ones are refused now."""
        options_of(options, batch=batch)
        self._registry = registry
        self._name = name
        self._options = options
        self._batch = batch
        self._bind = bind

    @overload
    def __call__(  # type: ignore[overload-overlap]  # A coroutine function is also a function.
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...

    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Make the function a task."""
        _refuse_other_than_functions(function)
        registry, name = self._registry, self._name
        options = registry.options_for(name or task_name(function), self._options, self._batch)
        return registry.add(function, name=name, options=options, bind=self._bind)


def _undeclared(*args: object, **kwargs: object) -> object:
    raise UnknownTask(
        "this task is not declared here; it can be sent, but not called",
        expected="a function with @app.task",
        next_step="import the module that defines it",
    )


def _refuse_other_than_functions(function: object) -> None:
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise ConfigurationError(
            f"{function!r} cannot be a task", expected="a function, plain or async"
        )


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
