"""When a flow runs by itself: at times, when files arrive, after another flow, or when enough has gathered. Pure.

A condition compares what there is (``Facts``) with what the last run that succeeded had before it began (its *note*).
So what arrives while a run goes on counts for the next, and a kill before the note is stored runs it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, Final, Protocol, TypeAlias

from millstream.flows.places import plain_path, refuse_options, shown
from millstream.primitives.duration import Duration, duration_us, format_duration
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schedule_times import Cron, Every, first_due

EXPECTED: Final = "ms.cron(…), ms.every(…), ms.arrival(path), ms.after(flow) or ms.gathered(topic, events=, within=)"
CLOCK_BACK_US: Final = 3_600_000_000
"""A clock that was set back by more than that was wrong before: times are waited for anew."""
_DIGEST_BYTES: Final = 8

Note: TypeAlias = Any
"""What a condition has taken note of; as JSON can hold it."""


@dataclass(frozen=True)
class TopicFacts:
    """A topic as it is at one moment. One that was deleted and made anew has another ``topic_id``."""

    topic_id: int
    ranges: tuple[tuple[int, int], ...]
    """The first offset of each partition, and one past the last."""


class Facts(Protocol):
    """What there is at one moment."""

    now_us: int
    anchor_us: int
    """When the trigger was first stored."""

    def files(self, arrival: Arrival) -> frozenset[bytes]:
        """Return a ``file_digest`` of each file that nobody is writing any more."""

    def finished(self, flow: str) -> int:
        """Return how often a flow has come to an end."""

    def topic(self, topic: str) -> TopicFacts | None:
        """Return a topic; None if there is no such topic yet."""

    def first_us(self, topic: str, offsets: Sequence[int]) -> int | None:
        """Return when the first event at or behind these offsets was appended; None if there is none."""


class Condition(ABC):
    """Something that makes a flow run."""

    @property
    def key(self) -> str:
        """What its note is stored under: what it looks at."""
        return str(self)

    def first(self, facts: Facts) -> Note:
        """Return the note of a trigger that is new: what it holds is not waited for any more."""
        return self.note(facts)

    @abstractmethod
    def note(self, facts: Facts) -> Note:
        """Return the note of a run that begins now."""

    @abstractmethod
    def due_us(self, noted: Note, facts: Facts) -> int | None:
        """Return when a run is due, which may be past; None if that hangs on something else than time."""

    def holds(self, noted: Note, facts: Facts) -> bool:
        """Return whether a note can still be compared with what there is; if not, it is taken anew."""
        del noted, facts
        return True

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
        # Behind a clock that was set back the note may lie before the anchor.
        return first_due(self.times, noted, anchor_us=min(facts.anchor_us, noted))

    def holds(self, noted: Note, facts: Facts) -> bool:
        """Return whether the last run did not begin in what is the future now."""
        return bool(noted <= facts.now_us + CLOCK_BACK_US)

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return str(self.times)


@dataclass(frozen=True)
class Arrival(Condition):
    """Files that the last run did not find, or found otherwise. Made by ``arrival``."""

    path: str = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What the file system of a URL is told; credentials perhaps."""

    @property
    def key(self) -> str:
        """What it looks at is the path."""
        return f"files in {shown(self.path)}"

    def first(self, facts: Facts) -> Note:
        """Take note of nothing: files that are there already have arrived."""
        del facts
        return _packed(frozenset())

    def note(self, facts: Facts) -> Note:
        """Return the files, as digests: eight bytes of each file that is there."""
        return _packed(facts.files(self))

    def due_us(self, noted: Note, facts: Facts) -> int | None:
        """Return now if there is a file that is new or was changed."""
        return None if facts.files(self) <= _unpacked(noted) else facts.now_us

    def __str__(self) -> str:
        """Return it as a person reads it, without a password."""
        return f"files arrive in {shown(self.path)}"


def file_digest(path: str, size_bytes: int, modified_us: int) -> bytes:
    """Return what tells a file in one state from any other, with a chance of 2⁻⁶⁴ to be wrong about two."""
    text = f"{path}\0{size_bytes}\0{modified_us}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def _packed(digests: frozenset[bytes]) -> str:
    return b64encode(b"".join(sorted(digests))).decode()


def _unpacked(text: str) -> set[bytes]:
    packed = b64decode(text)
    return {packed[at : at + _DIGEST_BYTES] for at in range(0, len(packed), _DIGEST_BYTES)}


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

    @property
    def key(self) -> str:
        """What it looks at is the topic: what was run is not gathered again when a number in the code changes."""
        return f"events in {self.topic}"

    def first(self, facts: Facts) -> Note:
        """Take note of nothing: events that are there already have gathered."""
        del facts
        return None

    def note(self, facts: Facts) -> Note:
        """Return the topic and the ends of its partitions."""
        found = facts.topic(self.topic)
        if found is None:
            return None
        return {"topic": found.topic_id, "ends": [end for _, end in found.ranges]}

    def due_us(self, noted: Note, facts: Facts) -> int | None:
        """Return now if there are enough, or when the first will have waited long enough."""
        found = facts.topic(self.topic)
        if found is None:
            return None
        offsets = _waiting_from(noted, found)
        if self.events is not None:
            ranges = zip(offsets, found.ranges, strict=True)
            if sum(end - at for at, (_, end) in ranges) >= self.events:
                return facts.now_us
        if self.within_us is None:
            return None
        first_us = facts.first_us(self.topic, offsets)
        if first_us is None:
            return None
        # One that is still to come by the clock was appended before the clock was set back.
        due_us = first_us + self.within_us
        return due_us if first_us <= facts.now_us + self.within_us else facts.now_us

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


def _waiting_from(noted: Note, found: TopicFacts) -> list[int]:
    """Return the offset of the first event of each partition that waits; what retention deleted does not."""
    ends = noted["ends"] if noted is not None and noted["topic"] == found.topic_id else []
    ends = [*ends, *[0] * (len(found.ranges) - len(ends))]
    return [max(first, at) for at, (first, _) in zip(ends, found.ranges, strict=True)]


ConditionLike: TypeAlias = Cron | Every | Arrival | After | Gathered


class Named(Protocol):
    """A handle of a topic."""

    @property
    def name(self) -> str:
        """The topic's name."""


def arrival(path: str | PurePath, *, storage_options: Mapping[str, Any] | None = None) -> Arrival:
    """Return the condition that a file is new or changed: a path, a pattern with ``*``, or a directory; also a URL.

    Files on this machine count once they were left alone for two seconds. Those that are there at first count.
    ``storage_options`` are for the file system of a URL, as those of ``app.read``. Raises ConfigurationError, and
    PlanError for options of a path.
    """
    text = plain_path(_text("arrival", str(path) if isinstance(path, PurePath) else path))
    refuse_options(text, storage_options, where=f"arrival({shown(text)!r})")
    return Arrival(text, storage_options or {})


def after(flow: str) -> After:
    """Return the condition that a flow of that name has come to its end: a batch, or a stream with ``until=``.

    Raises ConfigurationError.
    """
    return After(_text("after", flow))


def gathered(
    topic: str | Named, *, events: int | None = None, within: Duration | None = None
) -> Gathered:
    """Return the condition that ``events`` wait in a topic since the last run, or one has waited for ``within``.

    Raises ConfigurationError unless at least one of the two is given.
    """
    name = _text("gathered", _name_of(topic))
    if events is None and within is None:
        raise ConfigurationError(
            f"gathered({name!r}) says neither how many nor how long",
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
    return Gathered(name, events, within_us)


def _name_of(topic: object) -> object:
    return getattr(topic, "name", topic)


def _text(call: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{call}({value!r})", expected="a text that is not empty")
    return value


def condition_of(value: object) -> Condition:
    """Return what ``app.trigger`` was given as a condition. Raises ConfigurationError."""
    if isinstance(value, Cron | Every):
        return AtTimes(value)
    if isinstance(value, Arrival | After | Gathered):
        return value
    raise ConfigurationError(f"{value!r} does not say when", expected=EXPECTED)
