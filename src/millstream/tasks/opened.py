"""Opens the dependencies of one attempt, calls the function, and closes them, the last one first.

open a ─> open b(a) ─> function ─> is the result good? ─> close b ─> close a
                          └── error ──> raised inside b, then inside a; it stays the error of the attempt
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Protocol, TypeVar

from millstream.tasks.dependencies import Kind, Opening, Provider, Scope

T = TypeVar("T")
Values = dict[tuple[Provider, Scope], Any]


class SharedValues(Protocol):
    """The values of the scope ``worker`` in this process."""

    def value(self, opening: Opening) -> Any:  # noqa: ANN401 - what the provider gives
        """Return the value; open it if it is the first time. Any thread."""
        ...

    async def avalue(self, opening: Opening) -> Any:  # noqa: ANN401 - as above
        """``value`` on an event loop, for providers that need one."""
        ...


def call_with(
    openings: Mapping[str, Opening],
    shared: SharedValues | None,
    call: Callable[[dict[str, Any]], T],
) -> T:
    """Return ``call(values)`` between opening and closing; without ``shared`` everything is opened for this call alone.

    Raises what a provider or the call raises; an error is raised inside what is open, which cannot hold it back.
    """
    ended: list[T] = []
    failed: list[BaseException] = []
    with ExitStack() as stack:
        try:
            values: Values = {}
            given = {
                name: _value(opening, stack, values, shared) for name, opening in openings.items()
            }
            ended.append(call(given))
        except BaseException as error:
            failed.append(error)
            raise
    if failed:
        raise failed[0]  # A provider held it back.
    return ended[0]


async def acall_with(
    openings: Mapping[str, Opening],
    shared: SharedValues | None,
    call: Callable[[dict[str, Any]], Awaitable[T]],
) -> T:
    """``call_with`` for a coroutine, on its event loop."""
    ended: list[T] = []
    failed: list[BaseException] = []
    async with AsyncExitStack() as stack:
        try:
            values: Values = {}
            given = {
                name: await _avalue(opening, stack, values, shared)
                for name, opening in openings.items()
            }
            ended.append(await call(given))
        except BaseException as error:
            failed.append(error)
            raise
    if failed:
        raise failed[0]  # A provider held it back.
    return ended[0]


def open_value(opening: Opening, needs: dict[str, Any], stack: ExitStack | AsyncExitStack) -> Any:  # noqa: ANN401 - what the provider gives
    """Return the value of a plain provider; ``stack`` closes it. Raises what the provider raises, with its name."""
    with _named(opening):
        if opening.kind is Kind.GENERATOR:
            return stack.enter_context(contextmanager(opening.provider)(**needs))
        made = opening.provider(**needs)
        return stack.enter_context(made) if opening.kind is Kind.CONTEXT else made


async def aopen_value(opening: Opening, needs: dict[str, Any], stack: AsyncExitStack) -> Any:  # noqa: ANN401 - as above
    """``open_value`` for every kind of provider."""
    if not opening.kind.is_async:
        return open_value(opening, needs, stack)
    with _named(opening):
        if opening.kind is Kind.ASYNC_GENERATOR:
            return await stack.enter_async_context(asynccontextmanager(opening.provider)(**needs))
        made = opening.provider(**needs)
        if opening.kind is Kind.COROUTINE:
            return await made
        return await stack.enter_async_context(made)


def _value(opening: Opening, stack: ExitStack, values: Values, shared: SharedValues | None) -> Any:  # noqa: ANN401 - what the provider gives
    if opening.key not in values:
        if opening.scope is Scope.WORKER and shared is not None:
            values[opening.key] = shared.value(opening)
        else:
            needs = {
                name: _value(need, stack, values, shared) for name, need in opening.needs.items()
            }
            values[opening.key] = open_value(opening, needs, stack)
    return values[opening.key]


async def _avalue(
    opening: Opening, stack: AsyncExitStack, values: Values, shared: SharedValues | None
) -> Any:  # noqa: ANN401 - as above
    if opening.key not in values:
        if opening.scope is Scope.WORKER and shared is not None:
            values[opening.key] = await shared.avalue(opening)
        else:
            needs = {
                name: await _avalue(need, stack, values, shared)
                for name, need in opening.needs.items()
            }
            values[opening.key] = await aopen_value(opening, needs, stack)
    return values[opening.key]


@contextmanager
def _named(opening: Opening) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"It was raised while the dependency {opening.name} was opened.")
        raise
