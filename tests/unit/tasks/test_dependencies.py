"""Dependencies: what is one, what providers are, what is refused, and the order of opening and closing."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import pytest

from millstream.primitives.errors import ConfigurationError, TaskArgumentError
from millstream.tasks.arguments import Arguments
from millstream.tasks.dependencies import (
    Dependency,
    Depends,
    Kind,
    Opening,
    Scope,
    dependencies_of,
    kind_of,
    openings_of,
)
from millstream.tasks.limits import DEPENDENCIES_MAX
from millstream.tasks.opened import acall_with, call_with
from millstream.tasks.shape import shape_of


def settings() -> str:
    return "blue"


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> int:
    return 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@contextmanager
def context() -> Iterator[int]:
    yield 1


@asynccontextmanager
async def async_context() -> AsyncIterator[int]:
    yield 1


class Settings:
    def __init__(self, colour: str = Depends(settings)) -> None:
        self.colour = colour


class Opener:
    def __call__(self) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("provider", "kind"),
    [
        (settings, Kind.FUNCTION),
        (Settings, Kind.FUNCTION),
        (lambda: 1, Kind.FUNCTION),
        (functools.partial(settings), Kind.FUNCTION),
        (functools.partial(generator), Kind.GENERATOR),
        (generator, Kind.GENERATOR),
        (Opener(), Kind.GENERATOR),
        (context, Kind.CONTEXT),
        (coroutine, Kind.COROUTINE),
        (async_generator, Kind.ASYNC_GENERATOR),
        (async_context, Kind.ASYNC_CONTEXT),
    ],
)
def test_what_a_provider_is(provider: Callable[..., Any], kind: Kind) -> None:
    assert kind_of(provider) is kind


def openings(function: Callable[..., Any], *, is_async: bool = True) -> dict[str, Opening]:
    needs = shape_of(function, task="t").dependencies
    return openings_of(needs, {}, where="task 't'", is_async=is_async)


def test_a_dependency_is_no_argument() -> None:
    def task(
        n: int,
        colour: str = Depends(settings),
        other: Annotated[int, Depends(generator)] = 0,
        *,
        last: int = 3,
    ) -> None: ...

    shape = shape_of(task, task="t")
    assert list(shape.dependencies) == ["colour", "other"]
    arguments = Arguments(shape)
    assert arguments.decode(arguments.encode((1,), {"last": 2})) == ([1], {"last": 2})
    with pytest.raises(TaskArgumentError, match="colour"):
        arguments.encode((1,), {"colour": "red"})


def test_what_gives_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="gives nothing"):
        Depends("settings")  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="is no scope"):
        Depends(settings, scope="request")  # type: ignore[call-overload]


def _before(colour: str = Depends(settings), n: int = 1) -> None: ...
def _star(colour: str = Depends(settings), *rest: int) -> None: ...
def _positional(n: int, colour: str = Depends(settings), /) -> None: ...
def _annotated(colour: Annotated[str, Depends(settings)], n: int) -> None: ...


@pytest.mark.parametrize("function", [_before, _star, _positional, _annotated])
def test_dependencies_come_last(function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="in each other's way"):
        shape_of(function, task="t")


def test_by_name_they_may_stand_anywhere() -> None:
    def task(
        n: int, *rest: int, colour: str = Depends(settings), more: int, **named: int
    ) -> None: ...

    assert list(shape_of(task, task="t").dependencies) == ["colour"]


def _needs_argument(n: int) -> int:
    return n


def _circle(again: Annotated[int, Dependency(lambda: 0, Scope.TASK)] = 0) -> int:
    return again


_circle.__annotations__["again"] = Annotated[int, Dependency(_circle, Scope.TASK)]


def _shared(one: int = Depends(generator)) -> int:
    return one


def _unknown(one: Missing = Depends(generator)) -> int:  # type: ignore[name-defined]  # noqa: F821
    return 1


@pytest.mark.parametrize(
    ("dependency", "told"),
    [
        (Depends(_needs_argument), "has the parameter 'n', which nobody gives"),
        (Depends(_circle), "needs itself"),
        (Depends(_shared, scope="worker"), "needs generator, which lives for one task"),
        (Depends(coroutine), "is an coroutine, and the task a plain function"),
        (Depends(async_context), "is an async context manager, and the task"),
        (Depends(_unknown), "cannot be read: name 'Missing'"),
    ],
)
def test_what_cannot_be_given(dependency: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        openings_of({"x": dependency}, {}, where="task 't'", is_async=False)


def chain_of(length: int) -> Dependency:
    dependency = Dependency(lambda: 0, Scope.TASK)
    for _ in range(length - 1):

        def provider(below: Any) -> int:
            return int(below) + 1

        provider.__annotations__["below"] = Annotated[int, dependency]
        dependency = Dependency(provider, Scope.TASK)
    return dependency


def test_the_limit_is_reached() -> None:
    most = openings_of({"x": chain_of(DEPENDENCIES_MAX)}, {}, where="t", is_async=False)
    assert call_with(most, None, lambda values: values["x"]) == DEPENDENCIES_MAX - 1
    with pytest.raises(ConfigurationError, match="one dependency too many"):
        openings_of({"x": chain_of(DEPENDENCIES_MAX + 1)}, {}, where="t", is_async=False)
    many = {
        f"x{n}": Dependency(functools.partial(settings), Scope.TASK)
        for n in range(DEPENDENCIES_MAX + 1)
    }
    with pytest.raises(ConfigurationError, match="one dependency too many"):
        openings_of(many, {}, where="t", is_async=False)


class Diary:
    """Writes down what is opened and closed, and with which error."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def provider(self, name: str, *, holds_back: bool = False) -> Callable[..., Iterator[str]]:
        def opened() -> Iterator[str]:
            self.lines.append(f"open {name}")
            try:
                yield name
            except ValueError as error:
                self.lines.append(f"{error} in {name}")
                if not holds_back:
                    raise
            self.lines.append(f"close {name}")

        return opened


def test_the_last_is_closed_first_and_once() -> None:
    diary = Diary()
    base = diary.provider("base")

    def upper(below: str = Depends(base)) -> Iterator[str]:
        diary.lines.append(f"open upper on {below}")
        yield "upper"
        diary.lines.append("close upper")

    def task(one: str = Depends(upper), two: str = Depends(base)) -> None: ...

    value = call_with(openings(task), None, lambda values: f"{values['one']} {values['two']}")
    assert value == "upper base"
    assert diary.lines == ["open base", "open upper on base", "close upper", "close base"]


@pytest.mark.parametrize("holds_back", [False, True])
def test_an_error_is_raised_inside_and_stays(holds_back: bool) -> None:
    diary = Diary()

    def task(
        one: str = Depends(diary.provider("one")),
        two: str = Depends(diary.provider("two", holds_back=holds_back)),
    ) -> None: ...

    def fail(values: dict[str, str]) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        call_with(openings(task), None, fail)
    inner = ["no in two", "close two", "close one"] if holds_back else ["no in two", "no in one"]
    assert diary.lines == ["open one", "open two", *inner]


def test_a_provider_that_fails_is_named_and_what_was_open_is_closed() -> None:
    diary = Diary()

    def broken() -> int:
        raise ValueError("refused")

    def task(one: str = Depends(diary.provider("one")), two: int = Depends(broken)) -> None: ...

    with pytest.raises(ValueError, match="refused") as caught:
        call_with(openings(task), None, lambda values: None)
    assert caught.value.__notes__ == [
        f"It was raised while the dependency {broken.__qualname__} was opened."
    ]
    assert diary.lines == ["open one", "refused in one"]


def test_an_error_while_closing_is_the_error() -> None:
    def commits() -> Iterator[int]:
        yield 1
        raise OSError("the commit failed")

    def task(one: int = Depends(commits)) -> None: ...

    with pytest.raises(OSError, match="the commit failed"):
        call_with(openings(task), None, lambda values: values["one"])


def test_all_kinds_on_a_loop() -> None:
    lines: list[str] = []

    @asynccontextmanager
    async def pool(colour: str = Depends(settings)) -> AsyncIterator[str]:
        lines.append("open pool")
        yield f"pool {colour}"
        lines.append("close pool")

    async def connection(pool: str = Depends(pool)) -> AsyncIterator[str]:
        try:
            yield f"connection of {pool}"
        except KeyError as error:
            lines.append(f"{error!r} in connection")

    async def task(
        connection: str = Depends(connection),
        number: int = Depends(coroutine),
        plain: int = Depends(context),
        made: Settings = Depends(Settings),
    ) -> None: ...

    async def body(values: dict[str, Any]) -> None:
        assert values["connection"] == "connection of pool blue"
        assert (values["number"], values["plain"], values["made"].colour) == (1, 1, "blue")
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        asyncio.run(acall_with(openings(task), None, body))
    assert lines == ["open pool", "KeyError('lost') in connection", "close pool"]


def test_overrides_replace_providers_and_what_they_need() -> None:
    def task(colour: str = Depends(settings)) -> None: ...

    def red(one: int = Depends(generator)) -> str:
        return f"red {one}"

    needs = dependencies_of(inspect.signature(task), {}, where="t")
    replaced = openings_of(needs, {settings: red}, where="t", is_async=False)
    assert call_with(replaced, None, lambda values: values["colour"]) == "red 1"
