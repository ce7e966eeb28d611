"""When flows run by themselves: at times, when files arrive, after another flow, or when enough has gathered. Pure.

A condition compares what there is (``Facts``) with what the last run that succeeded had before it began (its *note*).
So what arrives while a run goes on counts for the next, and a kill before the note is stored runs it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from millstream.primitives.duration import Duration, duration_us, format_duration
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schedule_times import Cron, Every, first_due

if TYPE_CHECKING:
    from millstream.flows.contract import Stop
    from millstream.flows.flow import Flow

MODES = ("batch", "stream")
_EXPECTED = "ms.cron(…), ms.every(…), ms.arrival(path), ms.after(flow) or ms.gathered(topic, events=, within=)"

Note: TypeAlias = Any
"""What a condition has taken note of; as JSON can hold it."""


class Facts(Protocol):
    """What there is at one moment."""

    now_us: int
    anchor_us: int
    """When the trigger was first stored."""

    def files(self, pattern: str) -> dict[str, list[int]]:
        """Return size and time of the last change of each file that nobody is writing any more."""

    def finished(self, flow: str) -> int:
        """Return how often a flow has come to an end."""

    def ends(self, topic: str) -> list[int]:
        """Return one past the last offset of each partition; empty if there is no such topic yet."""

    def first_us(self, topic: str, offsets: Sequence[int]) -> int | None:
        """Return when the first event at or behind these offsets was appended; None if there is none."""


class Condition(ABC):
    """Something that makes a flow run. Its text is under what its note is stored."""

    def first(self, facts: Facts) -> Note:
        """Return the note of a trigger that is new: what it holds is not waited for any more."""
        return self.note(facts)

    @abstractmethod
    def note(self, facts: Facts) -> Note:
        """Return the note of a run that begins now."""

    @abstractmethod
    def due_us(self, noted: Note, facts: Facts) -> int | None:
        """Return when a run is due, which may be past; None if that hangs on something else than time."""

    def topics(self) -> tuple[str, ...]:
        """Return the topics whose events may make it due."""
        return ()


@dataclass(frozen=True)
class AtTimes(Condition):
    """At the times of ``ms.cron`` or ``ms.every``; of times that were missed the last one counts."""

    times: Cron | Every

    def note(self, facts: Facts) -> Note:
        """Wait for the first time after now."""
        return facts.now_us

    def due_us(self, noted: Note, facts: Facts) -> int | None:
        """Return the first time after the last run began."""
        return first_due(self.times, noted, anchor_us=facts.anchor_us)

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return str(self.times)


@dataclass(frozen=True)
class Arrival(Condition):
    """Files that the last run did not find, or found otherwise. Made by ``arrival``."""

    path: str

    def first(self, facts: Facts) -> Note:
        """Take note of nothing: files that are there already have arrived."""
        del facts
        return {}

    def note(self, facts: Facts) -> Note:
        """Return the files."""
        return facts.files(self.path)

    def due_us(self, noted: Note, facts: Facts) -> int | None:
        """Return now if there is a file that is new or was changed."""
        found = facts.files(self.path)
        return facts.now_us if any(noted.get(p) != mark for p, mark in found.items()) else None

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return f"files arrive in {self.path}"


@dataclass(frozen=True)
class After(Condition):
    """Another flow has come to its end. Made by ``after``."""

    flow: str

    def note(self, facts: Facts) -> Note:
        """Wait for the next end."""
        return facts.finished(self.flow)

    def due_us(self, noted: Note, facts: Facts) -> int | None:
        """Return now if it has."""
        return facts.now_us if facts.finished(self.flow) > noted else None

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return f"after {self.flow}"


@dataclass(frozen=True)
class Gathered(Condition):
    """So many events wait in a topic, or the first of them has waited for so long. Made by ``gathered``."""

    topic: str
    events: int | None
    within_us: int | None

    def first(self, facts: Facts) -> Note:
        """Take note of nothing: events that are there already have gathered."""
        del facts
        return []

    def note(self, facts: Facts) -> Note:
        """Return the ends of the partitions."""
        return facts.ends(self.topic)

    def due_us(self, noted: Note, facts: Facts) -> int | None:
        """Return now if there are enough, or when the first will have waited long enough."""
        ends = facts.ends(self.topic)
        offsets = [*noted, *[0] * (len(ends) - len(noted))]
        if self.events is not None:
            waiting = sum(max(0, end - at) for end, at in zip(ends, offsets, strict=False))
            if waiting >= self.events:
                return facts.now_us
        if self.within_us is None:
            return None
        first_us = facts.first_us(self.topic, offsets)
        return None if first_us is None else first_us + self.within_us

    def topics(self) -> tuple[str, ...]:
        """Return the topic."""
        return (self.topic,)

    def __str__(self) -> str:
        """Return it as a person reads it."""
        parts = (
            []
            if self.events is None
            else [f"{self.events:,} event{'s' if self.events > 1 else ''}"]
        )
        parts += [] if self.within_us is None else [f"{format_duration(self.within_us)} after one"]
        return f"{' or '.join(parts)} in {self.topic}"


ConditionLike: TypeAlias = Cron | Every | Arrival | After | Gathered


def arrival(path: str) -> Arrival:
    """Return the condition that a file is new or changed: a path, a pattern with ``*``, or a directory; also a URL.

    Files on this machine count once they were left alone for two seconds. Those that are there at first count. Raises
    ConfigurationError.
    """
    _refuse_empty("arrival", path)
    return Arrival(path)


def after(flow: str) -> After:
    """Return the condition that a flow of that name has come to its end: a batch, or a stream with ``until=``.

    Raises ConfigurationError.
    """
    _refuse_empty("after", flow)
    return After(flow)


def gathered(topic: str, *, events: int | None = None, within: Duration | None = None) -> Gathered:
    """Return the condition that ``events`` wait in a topic since the last run, or one has waited for ``within``.

    Raises ConfigurationError unless at least one of the two is given.
    """
    _refuse_empty("gathered", topic)
    if events is None and within is None:
        raise ConfigurationError(
            f"gathered({topic!r}) says neither how many nor how long",
            expected="events=, within=, or both",
            next_step='for example events=10_000, within="5m"',
        )
    if events is not None and (type(events) is not int or events < 1):
        raise ConfigurationError(f"events={events!r}", where="gathered", expected="1 or more")
    within_us = None if within is None else duration_us(within)
    if within_us is not None and within_us <= 0:
        raise ConfigurationError(
            f"within={within!r}", where="gathered", expected="a duration above zero"
        )
    return Gathered(topic, events, within_us)


def _refuse_empty(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name}({value!r})", expected="a text that is not empty")


@dataclass(frozen=True)
class Trigger:
    """A flow that runs by itself."""

    name: str
    conditions: tuple[Condition, ...]
    make: Callable[[], Flow]
    mode: str

    def topics(self) -> set[str]:
        """Return the topics whose events may make it due."""
        return {topic for condition in self.conditions for topic in condition.topics()}


@dataclass(frozen=True)
class TriggerStatus:
    """Where a trigger stands."""

    name: str
    when: tuple[str, ...]
    mode: str
    runs: int
    last_us: int | None
    """When the last run that succeeded began."""
    due_us: int | None
    """When it is due, if time alone can make it so; past if it is due now."""
    failures: int
    """Since the last success."""
    error: str | None
    """Why the last run failed, or why nobody can say whether one is due."""


class TriggerEngine(Protocol):
    """Keeps what triggers have noted, and runs what is due."""

    def statuses(self, triggers: Sequence[Trigger]) -> list[TriggerStatus]:
        """Return where they stand; nothing is changed."""

    def run_due(self, triggers: Sequence[Trigger], *, report: Callable[[str], None]) -> int:
        """Run what is due now, one after the other, and return how many that were."""

    def run(
        self, triggers: Sequence[Trigger], *, report: Callable[[str], None], stop: Stop
    ) -> None:
        """Run what becomes due until told to stop; of several processes on a store one does it."""


class TriggerRegistry:
    """The triggers of one app. Declare them while importing; the rest any thread may use."""

    def __init__(self, *, engine: Callable[[], TriggerEngine]) -> None:
        """``engine`` is called when the store is needed."""
        self._engine = engine
        self._declared: dict[str, Trigger] = {}

    def declare(
        self, *conditions: ConditionLike, name: str | None = None, mode: str = "batch"
    ) -> Callable[[Callable[[], Flow]], Callable[[], Flow]]:
        """Return the decorator of a function without arguments that returns a flow: it runs when a condition is met.

        ``@app.trigger(ms.cron("0 3 * * *"), ms.after("ingest"))``. The flow has the name of the function, or ``name``.
        ``mode="batch"`` runs all there is then; ``"stream"`` goes on from its last run, with ``until="now"``. Raises
        ConfigurationError.
        """
        if not conditions:
            raise ConfigurationError("a trigger without a condition", expected=_EXPECTED)
        if mode not in MODES:
            raise ConfigurationError(f"mode={mode!r}", where="app.trigger", expected=repr(MODES))
        checked = tuple(map(_condition, conditions))

        def decorated(make: Callable[[], Flow]) -> Callable[[], Flow]:
            own = name or make.__name__
            if own in self._declared:
                raise ConfigurationError(
                    f"two triggers are named {own!r}",
                    expected="a name of its own for each",
                    next_step="give one of them name=, or give one function several conditions",
                )
            self._declared[own] = Trigger(own, checked, make, mode)
            return make

        return decorated

    def list(self) -> list[TriggerStatus]:
        """Return where each trigger stands, in the order of their declaration."""
        return self._engine().statuses([*self._declared.values()])

    def run_due(self, *, report: Callable[[str], None] = lambda line: None) -> int:
        """Run what is due now, one after the other; return how many runs that were. ``report`` hears of each."""
        return self._engine().run_due(self._some(), report=report)

    def run(self, *, stop: Stop, report: Callable[[str], None] = lambda line: None) -> None:
        """Run what becomes due until ``stop`` is set. A run that fails is reported, and tried again later.

        Any number of processes may do it: one works, and another takes over when that one dies. Raises
        ConfigurationError if there is no trigger.
        """
        self._engine().run(self._some(), report=report, stop=stop)

    def _some(self) -> Sequence[Trigger]:
        if not self._declared:
            raise ConfigurationError(
                "the app has no trigger",
                expected="functions under @app.trigger(…)",
                next_step="declare one in the module of the app, or in one that it imports",
            )
        return [*self._declared.values()]


def _condition(value: object) -> Condition:
    if isinstance(value, Cron | Every):
        return AtTimes(value)
    if isinstance(value, Arrival | After | Gathered):
        return value
    raise ConfigurationError(f"{value!r} does not say when", expected=_EXPECTED)
