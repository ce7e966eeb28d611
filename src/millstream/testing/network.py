"""A bad network on demand: events go missing, come later, out of order or twice, and the test knows which.

    network = BadNetwork(missing=0.05, delayed=0.1, repeated=0.02, seed=7, key="meter")
    arrived = list(network.through(events))
    network.check(missing=what_the_code_under_test_reported)

Every choice comes from the seed, which ``repr`` and each failed ``check`` show, and is kept in ``network.truth``.
Arrived are always all that were sent, less the missing, and the repeated twice.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import itemgetter
from random import Random
from typing import Any

from millstream.log.topic import Topic
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError, SchemaError

Event = Mapping[str, Any]
APPEND_EVENTS = 10_000
"""Events that ``copy`` appends at a time."""


@dataclass(frozen=True)
class GilbertElliott:
    """Losses in bursts: each key is in a good or a bad state, and each state loses events at a rate of its own.

    ``to_bad`` and ``to_good`` are the chances to change before an event. In the long run the share
    ``to_bad / (to_bad + to_good)`` is sent in the bad state, and a bad state lasts ``1 / to_good`` events on average.
    Source: E. O. Elliott, "Estimates of Error Rates for Codes on Burst-Noise Channels", Bell System Technical
    Journal 42 (1963), after E. N. Gilbert, ibid. 39 (1960).
    """

    to_bad: float
    to_good: float
    lost_good: float = 0.0
    lost_bad: float = 1.0

    def __post_init__(self) -> None:
        for name in ("to_bad", "to_good", "lost_good", "lost_bad"):
            _refuse_rate(f"GilbertElliott({name}=)", getattr(self, name))


Choice = float | Collection[int] | Callable[[Event], bool]
"""A rate from 0 to 1, the positions of events as they are sent (from 0), or a function of the event."""


@dataclass
class Truth:
    """What the network did. Positions count the events as they were sent, from 0."""

    sent: list[Event] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    delayed: dict[int, int] = field(default_factory=dict)
    """By how much: events of its key that overtook it, or microseconds of event time if the delay is a time."""
    out_of_order: list[int] = field(default_factory=list)
    """Those that a later event of their key overtook."""
    repeated: list[int] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    """The position of each event that came out, in that order."""

    def events(self, positions: Iterable[int]) -> list[Event]:
        """Return the events of these positions."""
        return [self.sent[position] for position in positions]


class BadNetwork:
    """Loses, delays, reorders and repeats events, and remembers it. One thread, one iteration at a time."""

    def __init__(
        self,
        *,
        missing: Choice | GilbertElliott = 0.0,
        delayed: Choice = 0.0,
        out_of_order: Choice = 0.0,
        repeated: Choice = 0.0,
        seed: int = 0,
        delay: tuple[int, int] | tuple[Duration, Duration] = (2, 10),
        time: str | None = None,
        key: str | None = None,
    ) -> None:
        """Say how often, or to which events, each thing happens.

        An event that is missing is nothing else; one that is delayed is not out of order besides. ``delay`` is the
        least and the most: a number of events of the same ``key`` that overtake, or durations in the event time of
        column ``time``. The second copy of a repeated event comes between at once and the most. Raises
        ConfigurationError.
        """
        choices = {"delayed": delayed, "out_of_order": out_of_order, "repeated": repeated}
        for name, choice in [("missing", missing), *choices.items()]:
            if not isinstance(choice, GilbertElliott):
                _refuse_choice(name, choice)
        self.seed = seed
        self.truth = Truth()
        self._missing = missing
        self._choices = choices
        self._least, self._most = _bounds(delay, time)
        self._delay = delay
        self._time = time
        self._key = key
        self._chance = Random(seed)
        self._bad: dict[object, bool] = {}

    def through(self, events: Iterable[Event]) -> Iterator[Event]:
        """Return the events as they arrive. What is under way when they end arrives then."""
        line = _Line(self)
        for event in events:
            yield from self.truth.events(line.send(event))
        yield from self.truth.events(line.end())

    async def athrough(self, events: AsyncIterable[Event]) -> AsyncIterator[Event]:
        """Return the events of an async iterable as they arrive."""
        line = _Line(self)
        async for event in events:
            for arrived in self.truth.events(line.send(event)):
                yield arrived
        for arrived in self.truth.events(line.end()):
            yield arrived

    def copy(self, source: Topic, target: Topic) -> None:
        """Send what is in a topic now to another, partition by partition: each event stays in its partition.

        Raises ConfigurationError if they are one topic, or do not have as many partitions and the same columns.
        """
        one, other = source.info, target.info
        if one.name == other.name or one.partitions != other.partitions:
            raise ConfigurationError(
                f"{one.name!r} has {one.partitions} partitions, {other.name!r} {other.partitions}",
                where="BadNetwork.copy",
                expected="two topics with as many partitions",
                next_step="declare the target with partitions= of the source",
            )
        if not one.schema.equals(other.schema):
            raise ConfigurationError(
                f"{one.name!r} and {other.name!r} have different columns",
                where="BadNetwork.copy",
                expected="the same schema",
                next_step="declare the target with the schema of the source",
            )
        for partition, (first, end) in enumerate(source.ends()):
            pending: list[Event] = []
            for event in self.through(_read(source, partition, first, end)):
                pending.append(event)
                if len(pending) == APPEND_EVENTS:
                    target.append(pending, partition=partition)
                    pending = []
            if pending:
                target.append(pending, partition=partition)

    def check(self, **reported: Iterable[int]) -> None:
        """Raise AssertionError unless the positions reported as ``missing``, ``repeated`` … are those of the truth."""
        for name, positions in reported.items():
            if name not in {"missing", "delayed", "out_of_order", "repeated"}:
                raise ConfigurationError(
                    f"{name!r} is nothing that a network does",
                    where="BadNetwork.check",
                    expected="missing, delayed, out_of_order or repeated",
                )
            true, found = sorted(getattr(self.truth, name)), sorted(positions)
            if true != found:
                overlooked, invented = set(true) - set(found), set(found) - set(true)
                raise AssertionError(
                    f"{name}: overlooked {sorted(overlooked)}, invented {sorted(invented)}, "
                    f"{len(found)} reported, {len(true)} true; {self!r}"
                )

    def __repr__(self) -> str:
        """Show all that makes such a network again."""
        parts = {"missing": self._missing, **self._choices}
        shown = [f"{name}={choice!r}" for name, choice in parts.items() if choice != 0.0]
        shown += [f"seed={self.seed}", f"delay={self._delay!r}"]
        shown += [f"time={self._time!r}"] if self._time else []
        shown += [f"key={self._key!r}"] if self._key else []
        return f"BadNetwork({', '.join(shown)})"

    def _chosen(self, name: str, position: int, event: Event) -> bool:
        return _holds(self._choices[name], position, event, self._chance.random())

    def _loses(self, position: int, event: Event, key: object) -> bool:
        model, chance = self._missing, self._chance.random()
        if not isinstance(model, GilbertElliott):
            return _holds(model, position, event, chance)
        bad = self._bad.get(key, False)
        turn = self._chance.random() < (model.to_good if bad else model.to_bad)
        self._bad[key] = bad = bad != turn
        return chance < (model.lost_bad if bad else model.lost_good)


class _Line:
    """One iteration: what is under way, by key in events, or in all by event time."""

    def __init__(self, network: BadNetwork) -> None:
        self._network = network
        self._truth = network.truth
        self._by_count: dict[object, list[tuple[int, int, bool]]] = {}
        self._by_time: list[tuple[datetime, int, bool, int, object]] = []
        self._passed: dict[object, int] = {}
        self._there: dict[object, list[int]] = {}
        """Which events of each key have arrived, ascending."""
        self._out_of_order: set[int] = set()
        self._copies: dict[int, tuple[object, Any, int]] = {}
        """Of events that are repeated and have not arrived yet: key, time, and how much later the copy comes."""

    def send(self, event: Event) -> list[int]:
        """Take an event; return the positions of those that arrive now."""
        network, truth = self._network, self._truth
        position = len(truth.sent)
        key = self._of(event, network._key, position) if network._key else None
        at = self._of(event, network._time, position) if network._time else None
        truth.sent.append(event)
        arrived = []
        while at is not None and self._by_time and self._by_time[0][0] <= at:
            arrived.append(self._arrive(heapq.heappop(self._by_time)))
        lost = network._loses(position, event, key)
        chosen = {name: network._chosen(name, position, event) for name in network._choices}
        by = network._chance.randint(network._least, network._most)
        copy_by = network._chance.randint(0, network._most)
        if lost:
            truth.missing.append(position)
            return arrived
        if chosen["repeated"]:
            truth.repeated.append(position)
            self._copies[position] = (key, at, copy_by)
        if chosen["delayed"]:
            self._hold(position, key, at, by)
        elif chosen["out_of_order"]:
            self._out_of_order.add(position)
            self._count(position, key, 1)
        else:
            self._passed[key] = self._passed.get(key, 0) + 1
            self._overtaken(position, key)
            arrived += [self._arrived(position), *self._due(key)]
        return arrived

    def end(self) -> list[int]:
        """Return the positions of all that was under way."""
        arrived = []
        for key, held in self._by_count.items():
            while held:  # again for the copies of those that were held
                left, held[:] = sorted(held, key=itemgetter(1)), []
                arrived += [self._arrive_counted(key, entry) for entry in left]
        while self._by_time:  # behind the others, whose copies are here if there is a time
            arrived.append(self._arrive(heapq.heappop(self._by_time)))
        return arrived

    def _arrived(self, position: int) -> int:
        """Note that an event or its copy has arrived; a copy sets out when the first has arrived."""
        self._truth.arrived.append(position)
        if position in self._copies:
            key, at, by = self._copies.pop(position)
            self._hold(position, key, at, by, is_copy=True)
        return position

    def _of(self, event: Event, column: str, position: int) -> Any:  # noqa: ANN401 - a user's value
        value = event.get(column)
        if value is None:
            raise SchemaError(
                f"event {position} has no {column!r}",
                where=repr(self._network),
                expected="a value in each event",
                next_step="name another column, or leave key= and time= out",
            )
        return value

    def _hold(self, position: int, key: object, at: Any, by: int, *, is_copy: bool = False) -> None:  # noqa: ANN401
        if at is None:
            self._count(position, key, by, is_copy=is_copy)
        else:
            due = at + timedelta(microseconds=by)
            heapq.heappush(self._by_time, (due, position, is_copy, by, key))

    def _count(self, position: int, key: object, by: int, *, is_copy: bool = False) -> None:
        due = self._passed.get(key, 0) + by
        heapq.heappush(self._by_count.setdefault(key, []), (due, position, is_copy))

    def _due(self, key: object) -> list[int]:
        held, arrived = self._by_count.get(key, []), []
        while held and held[0][0] <= self._passed[key]:
            arrived.append(self._arrive_counted(key, heapq.heappop(held)))
        return arrived

    def _arrive_counted(self, key: object, entry: tuple[int, int, bool]) -> int:
        _, position, is_copy = entry
        if is_copy:
            return self._arrived(position)
        overtaken = self._overtaken(position, key)
        if overtaken and position in self._out_of_order:
            self._truth.out_of_order.append(position)
        elif overtaken:
            self._truth.delayed[position] = overtaken
        return self._arrived(position)

    def _arrive(self, entry: tuple[datetime, int, bool, int, object]) -> int:
        _, position, is_copy, by, key = entry
        if not is_copy:
            self._overtaken(position, key)
            self._truth.delayed[position] = by
        return self._arrived(position)

    def _overtaken(self, position: int, key: object) -> int:
        """Note the arrival of an event, and return how many later ones of its key came before it."""
        before = self._there.setdefault(key, [])
        at = bisect(before, position)
        before.insert(at, position)
        return len(before) - 1 - at


def _read(topic: Topic, partition: int, offset: int, end: int) -> Iterator[Event]:
    while offset < end and (batch := topic.read(partition, offset)) is not None:
        yield from batch.to_pylist()
        offset = batch.next_offset


def _holds(choice: Choice, position: int, event: Event, chance: float) -> bool:
    if isinstance(choice, (int, float)):
        return chance < choice
    return bool(choice(event)) if callable(choice) else position in choice


def _refuse_rate(name: str, rate: object) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise ConfigurationError(
            f"{name} is {rate!r}",
            where="BadNetwork",
            expected="a rate from 0 to 1, a set of positions, or a function of the event",
            next_step="write 5 % as 0.05",
        )


def _refuse_choice(name: str, choice: object) -> None:
    if callable(choice):
        return
    if isinstance(choice, Collection) and not isinstance(choice, (str, bytes)):
        if all(type(position) is int and position >= 0 for position in choice):
            return
    _refuse_rate(f"{name}=", choice)


def _bounds(delay: object, time: str | None) -> tuple[int, int]:
    """Return the least and the most: events, or microseconds if there is a time."""
    if isinstance(delay, tuple) and len(delay) == 2:
        if all(type(bound) is int for bound in delay):
            least, most = delay
            fits = time is None and least >= 1
        else:
            least, most = map(duration_us, delay)
            fits = time is not None
        if fits and least <= most:
            return least, most
    raise ConfigurationError(
        f"delay={delay!r} with time={time!r}",
        where="BadNetwork",
        expected="(2, 10) events without time=, or ('1s', '5s') with the column of the event time",
        next_step="give the least first, and time= with durations only",
    )
