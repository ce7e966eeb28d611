"""Functions with a memory: ``process`` calls one with each event, and keeps what it remembers of each key.

    events       ──a1──b1────────a2──▶ event time         in the order of their times, behind the watermark
    function       │   │         │
    state of a     ●───┼─────────●────────⏰               its own timers are called between the events, in order
    state of b         ●──────────────⏰

Because the order is that of event time, a stream gives what a batch gives, however it was cut. Without a time the order
is that of arrival: nothing waits for a watermark, timers go by the clock, and the events of a key should lie in one
partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import pyarrow as pa

from millstream.flows.inference import check_event_time, column_kind
from millstream.flows.keyed_context import KeyedContext
from millstream.flows.kinds import BINARY, BOOLEAN, DATE, INTEGER, TEXT
from millstream.flows.state_codec import StateCodec
from millstream.flows.steps import ON_ERROR, field_of
from millstream.flows.windows import exact_duration
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import TIMESTAMP, describe

Given: TypeAlias = Mapping[str, Any] | Iterable[Mapping[str, Any]] | None
"""What a function gives: a row, several, or none."""
ProcessFunction: TypeAlias = Callable[[dict[str, Any], KeyedContext[Any]], Given]
TimerFunction: TypeAlias = Callable[[KeyedContext[Any]], Given]

_KEYS: Final = (INTEGER, TEXT, BOOLEAN, BINARY, DATE, TIMESTAMP)


@dataclass(frozen=True)
class Keyed:
    """What belongs together, in which order, and how long it is remembered.

    With ``time`` the events of all keys come in its order, behind the watermark; without, as they arrive.
    """

    keys: tuple[str, ...]
    time: str | None
    late_us: int = 0
    keep_late: bool = False
    ttl_us: int | None = None

    def text(self) -> str:
        """Return the canonical text."""
        texts = [", ".join(self.keys)] if self.keys else []
        if self.time is not None:
            texts += [f"time={self.time}", f"late={exact_duration(self.late_us)}"]
        if self.ttl_us is not None:
            texts.append(f"ttl={exact_duration(self.ttl_us)}")
        return f"key_by({', '.join(texts)})"

    def check(self, schema: pa.Schema, *, where: str) -> None:
        """Raise PlanError for keys or a time that are not there or do not fit."""
        for name in self.keys:
            kind = column_kind(name, schema, where=where)
            if kind not in _KEYS:
                raise PlanError(
                    f"column {name!r} is {kind} and cannot be a key",
                    where=where,
                    expected="integers, texts, booleans, bytes, dates or times",
                    next_step="cast it, or choose another key",
                )
        if len(set(self.keys)) < len(self.keys):
            raise PlanError(
                f"a key is named twice: {', '.join(self.keys)}",
                where=where,
                expected="different columns",
            )
        if self.ttl_us == 0:
            raise PlanError("nothing would be remembered", where=where, expected="a ttl above zero")
        if self.time is not None:
            check_event_time(self.time, schema, where=where)
        elif self.late_us or self.keep_late:
            raise PlanError(
                "without a time no event is late",
                where=where,
                expected="late= and keep_late= together with time=",
                next_step='name the column that says when an event happened: time="at"',
            )


@dataclass(frozen=True)
class Process:
    """Calls a function with each event and the state of its key."""

    function: ProcessFunction
    on_timer: TimerFunction | None
    keyed: Keyed
    schema: pa.Schema
    codec: StateCodec
    on_error: str = "fail"
    name: str = field(default="process", init=False)

    @property
    def time(self) -> str | None:
        """The column of the event time, if the order is that of event time."""
        return self.keyed.time

    @property
    def late_us(self) -> int:
        """How long a stream waits for late events."""
        return self.keyed.late_us

    @property
    def keep_late(self) -> bool:
        """Whether events that come later are written somewhere."""
        return self.keyed.keep_late

    def keeping_late(self) -> Process:
        """Return it with late events written, which changes nothing else."""
        return (
            self if self.time is None else replace(self, keyed=replace(self.keyed, keep_late=True))
        )

    def text(self) -> str:
        """Return the canonical text: the names of the functions, not their code."""
        timer = "" if self.on_timer is None else f", on_timer={_name_of(self.on_timer)}"
        policy = "" if self.on_error == "fail" else f", on_error={self.on_error}"
        return (
            f"{self.keyed.text()}.process({_name_of(self.function)}, state={self.codec.text()}"
            f"{timer}{policy}, [{describe(self.schema)}])"
        )

    def kept_text(self) -> str:
        """Return what must not change while there is state: neither the code nor what it gives."""
        return f"{self.keyed.text()}.process(state={self.codec.text()})"

    def output(self, schema: pa.Schema, *, where: str) -> pa.Schema:
        """Return the declared schema. Raises PlanError for keys or a time that are not there."""
        self.keyed.check(schema, where=where)
        if self.on_error not in ON_ERROR:
            raise PlanError(
                f"on_error={self.on_error!r}",
                where=where,
                expected=f"one of {', '.join(map(repr, ON_ERROR))}",
                next_step="leave it out for the default",
            )
        for column in self.schema:
            field_of(column.name, column.type, where)
        return self.schema


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
