"""What ``@app.task(…)`` returns, for type checkers: which task a function of which parameters becomes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from millstream.tasks.bound import BoundBatch, BoundTask
from millstream.tasks.task import BatchTask, CoroutineBatchTask, CoroutineTask, Task

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")


class BoundTaskDecorator(Protocol):
    """What ``@app.task(bind=True, …)`` returns: the function's first argument is not one of the task."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # A coroutine function is also a function.
        self, function: Callable[Concatenate[BoundTask, P], Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[BoundTask, P], R], /) -> Task[P, R]: ...


class BatchDecorator(Protocol):
    """What ``@app.task(batch=…)`` returns: a call passes one item of the list, and is given one of the values."""

    @overload
    def __call__(
        self, function: Callable[[list[A]], Coroutine[Any, Any, None]], /
    ) -> CoroutineBatchTask[A, None]: ...

    @overload
    def __call__(
        self, function: Callable[[list[A]], Coroutine[Any, Any, Sequence[R | Exception]]], /
    ) -> CoroutineBatchTask[A, R]: ...

    @overload
    def __call__(self, function: Callable[[list[A]], None], /) -> BatchTask[A, None]: ...

    @overload
    def __call__(
        self, function: Callable[[list[A]], Sequence[R | Exception]], /
    ) -> BatchTask[A, R]: ...


class BoundBatchDecorator(Protocol):
    """What ``@app.task(batch=…, bind=True)`` returns: as ``BatchDecorator``, behind a ``BoundBatch``."""

    @overload
    def __call__(
        self, function: Callable[[BoundBatch, list[A]], Coroutine[Any, Any, None]], /
    ) -> CoroutineBatchTask[A, None]: ...

    @overload
    def __call__(
        self,
        function: Callable[[BoundBatch, list[A]], Coroutine[Any, Any, Sequence[R | Exception]]],
        /,
    ) -> CoroutineBatchTask[A, R]: ...

    @overload
    def __call__(
        self, function: Callable[[BoundBatch, list[A]], None], /
    ) -> BatchTask[A, None]: ...

    @overload
    def __call__(
        self, function: Callable[[BoundBatch, list[A]], Sequence[R | Exception]], /
    ) -> BatchTask[A, R]: ...
