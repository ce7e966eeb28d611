"""What a function of ``process`` sees of one key: its state, its time, its timers."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

from millstream.flows.watermark import TIME_MIN
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import StepError
from millstream.primitives.schema import datetime_us, us_datetime

S = TypeVar("S")
State: TypeAlias = Any
"""What a function remembers of a key: of whatever type the user has said."""
Key: TypeAlias = Any
"""The value of the key column; a tuple of them if there are several, () if there is none."""
Timer: TypeAlias = "tuple[int, str, int, KeyedContext[Any]]"
"""When it is due, its name, a number that no other has, and whose it is."""


class Agenda:
    """The timers of all keys, those of event time and those of the clock. Belongs to one thread.

    A timer in a heap counts only if its key still has it so. One that was replaced or forgotten stays there until its
    time has come, or until there are many of them.
    """

    def __init__(self, now_us: Callable[[], int], *, has_listener: bool, has_time: bool) -> None:
        """Start with none."""
        self.now_us = now_us
        self.has_listener = has_listener
        self.has_time = has_time
        self.closed_us = TIME_MIN
        """Up to where event time was processed."""
        self.was_used = False
        """Whether there has been a timer."""
        self.of_events: list[Timer] = []
        self.of_clock: list[Timer] = []
        self._numbers = count()

    def refuse_unheard(self, where: str) -> None:
        """Raise StepError if no function is called for timers."""
        if not self.has_listener:
            raise StepError(
                "nobody would hear of the timer",
                where=where,
                expected="process(…, on_timer=function)",
                next_step="say which function is called when its time has come",
            )

    def add(self, heap: list[Timer], due_us: int, name: str, context: KeyedContext[Any]) -> None:
        """Put a timer in one of the heaps."""
        self.was_used = True
        heapq.heappush(heap, (due_us, name, next(self._numbers), context))


class KeyedContext(Generic[S]):
    """What a function of ``process`` knows of one key; of use during a call only.

    ``key`` is the value of the key column, a tuple if there are several. ``state`` is what is remembered of the key:
    change it, or put another value in its place.
    """

    __slots__ = (
        "_agenda",
        "_by_clock",
        "_clock_due",
        "_due",
        "_is_cleared",
        "_time_us",
        "_timer",
        "key",
        "state",
    )

    def __init__(self, key: Key, state: S, agenda: Agenda) -> None:
        """Begin without timers. For engines."""
        self.key = key
        self.state = state
        self._agenda = agenda
        self._due: dict[str, int] = {}
        self._clock_due: dict[str, int] = {}
        self._is_cleared = False
        self._time_us = 0
        self._timer: str | None = None
        self._by_clock = False

    @property
    def time(self) -> datetime:
        """The time of the event, or the one that the timer was set for; without event time, that of the clock."""
        return us_datetime(self._time_us)

    @property
    def timer(self) -> str | None:
        """The name of the timer whose time has come; None while an event is processed."""
        return self._timer

    def set_timer(self, at: datetime, name: str = "") -> None:
        """Have ``on_timer`` called once event time has passed ``at``; it replaces the timer of the same name.

        It comes behind the events of that time. For a time that has passed already it comes right behind this event.
        Raises StepError for a time without a zone, without ``on_timer=`` or ``time=``, for a name that is no text, and
        for a timer that sets itself for a time that has passed.
        """
        agenda = self._agenda
        is_repeated = self._timer is not None and not self._by_clock
        due_us = datetime_us(at) if _is_aware(at) else None
        if due_us is None or (is_repeated and due_us <= self._time_us):
            raise StepError(
                f"a timer for {at!r}",
                where="set_timer",
                expected="a datetime with a zone; in on_timer one behind context.time",
                next_step="for example context.set_timer(context.time + timedelta(minutes=30))",
            )
        if not agenda.has_time:
            raise StepError(
                "without a time there are no timers of event time",
                where="set_timer",
                expected="key_by(…, time=…)",
                next_step="name the column that says when an event happened, or use set_clock_timer",
            )
        agenda.refuse_unheard("set_timer")
        _refuse_nameless(name, "set_timer")
        due_us = max(due_us, agenda.closed_us if self._by_clock else self._time_us)
        self._clock_due.pop(name, None)
        if self._due.get(name) != due_us:
            self._due[name] = due_us
            agenda.add(agenda.of_events, due_us, name, self)

    def set_clock_timer(self, after: Duration, name: str = "") -> None:
        """Have ``on_timer`` called when so much time has passed on the clock. Names are as for ``set_timer``.

        A replay does not repeat it at the same place. A batch, and ``until="end"``, take all of them as
        due at the end. Raises StepError without ``on_timer=`` or for a name that is no text, and
        ConfigurationError for what is no duration.
        """
        agenda = self._agenda
        agenda.refuse_unheard("set_clock_timer")
        _refuse_nameless(name, "set_clock_timer")
        due_us = agenda.now_us() + duration_us(after)
        self._due.pop(name, None)
        self._clock_due[name] = due_us
        agenda.add(agenda.of_clock, due_us, name, self)

    def cancel_timer(self, name: str = "") -> None:
        """Forget a timer; nothing happens if there is none of that name."""
        self._due.pop(name, None)
        self._clock_due.pop(name, None)

    def timers(self) -> dict[str, datetime]:
        """Return the timers of the key, by their names, with the times that they are due."""
        return {name: us_datetime(due) for name, due in {**self._due, **self._clock_due}.items()}

    def clear(self) -> None:
        """Forget the key, its state and its timers, once the function has returned."""
        self._is_cleared = True


def _refuse_nameless(name: object, where: str) -> None:
    """Raise StepError for a name that is no text: timers are stored, and put in order, by their names."""
    if not isinstance(name, str):
        raise StepError(
            f"a timer with the name {name!r}",
            where=where,
            expected="a text",
            next_step=f'for example context.{where}(…, "{name}")',
        )


def _is_aware(at: object) -> bool:
    return isinstance(at, datetime) and at.tzinfo is not None
