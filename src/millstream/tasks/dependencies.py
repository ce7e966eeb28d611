"""Dependencies: what a function needs beside its arguments, such as a connection or settings. Decides, opens nothing.

    @app.task
    def save(order: Order, db: Connection = ms.Depends(connect)) -> None: ...

A *provider* is a function that returns the value, or a generator that yields it and closes it afterwards. Its own
parameters may be dependencies as well. Within one scope a provider is called once, however many ask for it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.limits import DEPENDENCIES_MAX

if TYPE_CHECKING:
    from contextlib import _AsyncGeneratorContextManager, _GeneratorContextManager

T = TypeVar("T")
Provider = Callable[..., Any]
Overrides = Mapping[Provider, Provider]
ScopeLike = Literal["task", "worker"]
_BY_NAME_ONLY = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Scope(StrEnum):
    """How long a value lives."""

    TASK = "task"
    """Opened for one attempt, and closed after it."""
    WORKER = "worker"
    """Opened at first use, shared by all that the process runs, closed when the worker ends."""


class Kind(StrEnum):
    """What a provider is, and so how its value is opened."""

    FUNCTION = "function"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"
    CONTEXT = "context manager"
    ASYNC_CONTEXT = "async context manager"

    @property
    def is_async(self) -> bool:
        """Tell whether it needs an event loop."""
        return self in (Kind.COROUTINE, Kind.ASYNC_GENERATOR, Kind.ASYNC_CONTEXT)


@dataclass(frozen=True, slots=True)
class Dependency:
    """What ``Depends`` leaves in the place of a default."""

    provider: Provider
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """A provider and what it needs: one step of opening the dependencies of a task."""

    provider: Provider
    kind: Kind
    scope: Scope
    needs: Mapping[str, Opening]

    @property
    def key(self) -> tuple[Provider, Scope]:
        """What is opened once: the provider, in its scope."""
        return self.provider, self.scope

    @property
    def needs_loop(self) -> bool:
        """Tell whether it, or what it needs, is opened on an event loop."""
        return self.kind.is_async or any(need.needs_loop for need in self.needs.values())

    @property
    def name(self) -> str:
        """The provider's name, for errors."""
        return _name_of(self.provider)


@overload
def Depends(
    provider: Callable[..., _GeneratorContextManager[T]], *, scope: ScopeLike = "task"
) -> T: ...


@overload
def Depends(
    provider: Callable[..., _AsyncGeneratorContextManager[T]], *, scope: ScopeLike = "task"
) -> T: ...


@overload
def Depends(provider: Callable[..., AsyncGenerator[T, Any]], *, scope: ScopeLike = "task") -> T: ...


@overload
def Depends(provider: Callable[..., AsyncIterator[T]], *, scope: ScopeLike = "task") -> T: ...


@overload
def Depends(provider: Callable[..., Generator[T, Any, Any]], *, scope: ScopeLike = "task") -> T: ...


@overload
def Depends(provider: Callable[..., Iterator[T]], *, scope: ScopeLike = "task") -> T: ...


@overload
def Depends(provider: Callable[..., Coroutine[Any, Any, T]], *, scope: ScopeLike = "task") -> T: ...


@overload
def Depends(provider: Callable[..., T], *, scope: ScopeLike = "task") -> T: ...


def Depends(provider: Provider, *, scope: ScopeLike = "task") -> Any:
    """Let a parameter be given by ``provider`` and not by callers: ``db: Connection = ms.Depends(connect)``.

    ``provider`` is a function or class, a generator function that yields the value once, a function with
    ``@contextmanager``, or the ``async`` form of one of these, which only ``async def`` tasks may need.
    ``scope="task"``: it is called for each attempt, and what it yields is closed after it, with the error that the
    attempt ended with raised inside. ``scope="worker"``: it is called once in a worker process, at first use, and
    closed when the worker ends, but not when it is killed. To a type checker it is what the provider gives. Raises
    ConfigurationError.
    """
    if not callable(provider):
        raise ConfigurationError(
            f"{provider!r} gives nothing",
            where="ms.Depends",
            expected="a function that returns or yields the value",
        )
    if scope not in tuple(Scope):
        raise ConfigurationError(
            f"{scope!r} is no scope", where="ms.Depends", expected="'task' or 'worker'"
        )
    return Dependency(provider, Scope(scope))


def dependencies_of(
    signature: inspect.Signature, hints: Mapping[str, Any], *, where: str
) -> dict[str, Dependency]:
    """Return the parameters that are no arguments: they follow all others, or are given by name only.

    Raises ConfigurationError where an argument follows one of them, as it could be given by position.
    """
    found: dict[str, Dependency] = {}
    for parameter in signature.parameters.values():
        dependency = _dependency_of(parameter, hints.get(parameter.name))
        if dependency is not None:
            found[parameter.name] = dependency
        misplaced = parameter.kind not in _BY_NAME_ONLY and (
            found if dependency is None else parameter.kind is parameter.POSITIONAL_ONLY
        )
        if misplaced:
            raise ConfigurationError(
                f"the parameter {parameter.name!r} and a dependency are in each other's way",
                where=where,
                expected="dependencies behind all other parameters",
                next_step="put the dependencies last, or a `*` before them",
            )
    return found


def openings_of(
    dependencies: Mapping[str, Dependency], overrides: Overrides, *, where: str, is_async: bool
) -> dict[str, Opening]:
    """Return how to open what a task needs, by parameter. Raises ConfigurationError for what cannot be given.

    ``overrides`` replaces providers. ``is_async``: whether the task runs on an event loop.
    """
    tree = _Tree(overrides, where, is_async=is_async)
    return {name: tree.opening(dependency, ()) for name, dependency in dependencies.items()}


class _Tree:
    """Follows the parameters of providers down to those that need nothing."""

    def __init__(self, overrides: Overrides, where: str, *, is_async: bool) -> None:
        self._overrides = overrides
        self._where = where
        self._is_async = is_async
        self._known: dict[tuple[Provider, Scope], Opening] = {}

    def opening(self, dependency: Dependency, path: tuple[Provider, ...]) -> Opening:
        provider = self._overrides.get(dependency.provider, dependency.provider)
        known = self._known.get((provider, dependency.scope))
        if known is not None:
            return known
        if provider in path:
            raise self._refused(provider, "needs itself", "dependencies without a circle")
        if len(path) + len(self._known) >= DEPENDENCIES_MAX:
            expected = f"at most {DEPENDENCIES_MAX} for one task"
            raise self._refused(provider, "is one dependency too many", expected)
        kind = kind_of(provider)
        if kind.is_async and not self._is_async:
            what = f"is an {kind}, and the task a plain function"
            raise self._refused(provider, what, "an async def task, or a plain provider")
        needs = {
            name: self.opening(need, (*path, provider))
            for name, need in self._needs_of(provider).items()
        }
        brief = [need.name for need in needs.values() if need.scope is Scope.TASK]
        if dependency.scope is Scope.WORKER and brief:
            what = f"lives as long as the worker, and needs {brief[0]}, which lives for one task"
            raise self._refused(provider, what, "needs of the scope 'worker'")
        found = Opening(provider, kind, dependency.scope, needs)
        self._known[found.key] = found
        return found

    def _needs_of(self, provider: Provider) -> dict[str, Dependency]:
        try:
            signature = inspect.signature(provider)
            hints = typing.get_type_hints(_annotated(provider), include_extras=True)
        except (NameError, TypeError, ValueError, AttributeError) as error:
            raise self._refused(
                provider, f"cannot be read: {error}", "annotations that are importable"
            ) from error
        needs: dict[str, Dependency] = {}
        for parameter in signature.parameters.values():
            need = _dependency_of(parameter, hints.get(parameter.name))
            if need is not None:
                needs[parameter.name] = need
            elif parameter.default is parameter.empty and parameter.kind not in _VARIADIC:
                what = f"has the parameter {parameter.name!r}, which nobody gives"
                raise self._refused(provider, what, "parameters with ms.Depends or a default")
        return needs

    def _refused(self, provider: Provider, what: str, expected: str) -> ConfigurationError:
        return ConfigurationError(
            f"the dependency {_name_of(provider)} {what}", where=self._where, expected=expected
        )


def kind_of(provider: Provider) -> Kind:
    """Return what a provider is, behind ``@contextmanager`` too."""
    call: Any = provider
    if not (inspect.isroutine(call) or inspect.isclass(call) or isinstance(call, partial)):
        call = type(provider).__call__  # An object that can be called.
    inner = inspect.unwrap(call)
    for plain, wrapped, test in (
        (Kind.GENERATOR, Kind.CONTEXT, inspect.isgeneratorfunction),
        (Kind.ASYNC_GENERATOR, Kind.ASYNC_CONTEXT, inspect.isasyncgenfunction),
    ):
        if test(call):
            return plain
        if test(inner):
            return wrapped
    return Kind.COROUTINE if inspect.iscoroutinefunction(call) else Kind.FUNCTION


def _dependency_of(parameter: inspect.Parameter, hint: Any) -> Dependency | None:  # noqa: ANN401 - types are values here
    if isinstance(parameter.default, Dependency):
        return parameter.default
    told = getattr(hint, "__metadata__", ())
    return next((one for one in told if isinstance(one, Dependency)), None)


def _annotated(provider: Provider) -> Any:  # noqa: ANN401 - a function, or what stands for one
    if inspect.isclass(provider):
        return provider.__init__
    if inspect.isroutine(provider):
        return inspect.unwrap(provider)
    return provider.func if isinstance(provider, partial) else type(provider).__call__


def _name_of(provider: Provider) -> str:
    return getattr(provider, "__qualname__", None) or repr(provider)
