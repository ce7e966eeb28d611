"""Batches: a function that is called once for many calls. Pure.

    sent    ·  ·    ·  ·  ·          (max 3, wait 50 ms)
            └──┴────┘  └──┴── 50 ms ──┐
              full: runs at once      ripe: runs with what there is

Calls that wait for others of their batch are *blocked*, in nobody's hands: what was said of waiting tasks (they expire,
are revoked, outlive every process) holds for them. A batch is *ripe* when it is full, or when its oldest call has
waited for ``wait`` since it could have been run.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Union

from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError
from millstream.tasks.limits import BATCH_CALLS_MAX, BATCH_WAIT_US_MAX
from millstream.tasks.message import Claimed, Work

BATCH_PREFIX = "batch:"


@dataclass(frozen=True, slots=True)
class Batch:
    """How many calls one run of the function takes, and how long the first of them waits for others.

    ``max`` is 1 to 1,000; ``wait`` a duration of at most one hour, ``"0s"`` for whatever waits already. Raises
    ConfigurationError.
    """

    max: int = 100
    wait: Duration = "50ms"

    def __post_init__(self) -> None:
        """Refuse a batch without bounds."""
        if not 1 <= self.max <= BATCH_CALLS_MAX:
            raise ConfigurationError(
                f"a batch of up to {self.max!r} calls", expected=f"1 to {BATCH_CALLS_MAX:,}"
            )
        if not 0 <= self.wait_us <= BATCH_WAIT_US_MAX:
            raise ConfigurationError(
                f"a batch that waits for {self.wait!r}",
                expected="from '0s' to '1h'",
                next_step="for work that is collected for longer use a schedule",
            )

    @property
    def wait_us(self) -> int:
        """``wait`` in microseconds."""
        return duration_us(self.wait)

    def has_waited(self, due_us: int, now_us: int) -> bool:
        """Tell whether a call that could run since ``due_us`` has waited for long enough.

        One from the future has: the clock was set back, and nobody can say how long it waits.
        """
        return due_us > now_us or now_us - due_us >= self.wait_us


def batch_key(queue: str, name: str) -> str:
    """Return the gate where the calls of one task in one queue wait for each other. Neither has a comma in it."""
    return f"{BATCH_PREFIX}{queue},{name}"


def works_of(claimed: Iterable[Claimed]) -> list[Work]:
    """Return what was claimed as what one call of a function takes: single calls, and batches, in their order."""
    works: list[Work] = []
    for batch, calls in groupby(claimed, key=lambda call: call.batch):
        if batch:
            works.append(tuple(calls))
        else:
            works.extend((one,) for one in calls)
    return works


def item_of(kind: Any, task: str) -> Any:  # noqa: ANN401 - types are values here
    """Return A of the annotation ``list[A]`` of a batch's parameter. Raises ConfigurationError."""
    if kind is Any or kind is list:
        return Any
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (list, Sequence) and len(arguments) == 1:
        return arguments[0]
    raise ConfigurationError(
        f"a batch takes {kind}",
        where=f"task {task!r}",
        expected="a list of what each call is given: list[Document]",
        next_step="let each call pass one value, a dataclass if it needs several",
    )


def value_of(kind: Any, task: str) -> Any:  # noqa: ANN401 - as above
    """Return R of the return annotation ``list[R | Exception] | None`` of a batch. Raises ConfigurationError."""
    if kind is Any or kind is None or kind is type(None):
        return kind
    lists = [one for one in _members(kind) if one is not type(None)]
    if lists == [list]:
        return Any
    arguments = typing.get_args(lists[0])
    if len(lists) > 1 or typing.get_origin(lists[0]) not in (list, Sequence) or len(arguments) != 1:
        raise ConfigurationError(
            f"a batch returns {kind}",
            where=f"task {task!r}",
            expected="a list with one value for each call, or None",
            next_step="return list[Result], with an error in it for a call that failed",
        )
    values = tuple(v for v in _members(arguments[0]) if not _is_error(v))
    return Union[values] if values else None  # noqa: UP007 - made of values


def _members(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401 - as above
    is_union = typing.get_origin(kind) in (Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def _is_error(kind: Any) -> bool:  # noqa: ANN401 - as above
    return isinstance(kind, type) and issubclass(kind, BaseException)
