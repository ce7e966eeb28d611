"""What there is when somebody looks whether a trigger is due: files, topics, flows that have ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from millstream.engines.local.flow_file_intake import LISTED_AGAIN_S, SETTLED_US
from millstream.engines.local.flow_places import place_at, visible
from millstream.engines.local.log import LocalLog
from millstream.flows.places import shown
from millstream.flows.trigger_conditions import Arrival, TopicFacts, file_digest
from millstream.primitives.clock import Clock
from millstream.primitives.errors import OffsetOutOfRange, StepError, UnknownTopic

ARRIVAL_FILES_MAX: Final = 1_000_000
"""Files that one ``arrival`` may find. Their digests are a row of the catalog, of eleven bytes for each."""
LISTED_PAUSES: Final = 20
"""How many times as long as it took to list files nobody lists them again."""


@dataclass(frozen=True)
class _Listed:
    digests: frozenset[bytes] = frozenset()
    error: Exception | None = None
    again_s: float = 0.0
    """Until when it is not listed again, by the monotonic clock."""


class Listings:
    """The files of each ``arrival``, listed at most once a second, and in a twentieth of the time. One thread."""

    def __init__(self, clock: Clock) -> None:
        """Nothing is listed."""
        self._clock = clock
        self._listed: dict[int, _Listed] = {}

    def files(self, arrival: Arrival) -> frozenset[bytes]:
        """Return the digests of its files, or raise why it cannot be looked at: the same until it looks again."""
        # By the object: conditions are equal though their file systems are told other things.
        found = self._listed.get(id(arrival))
        if found is None or self._clock.monotonic_s() >= found.again_s:
            found = self._listed[id(arrival)] = self._look(arrival)
        if found.error is not None:
            raise found.error
        return found.digests

    def _look(self, arrival: Arrival) -> _Listed:
        begun_s = self._clock.monotonic_s()
        digests: frozenset[bytes] = frozenset()
        error = None
        try:
            digests = frozenset(_settled(arrival, self._clock.now_us()))
        except Exception as failed:  # noqa: BLE001 - kept, and raised to each who asks
            error = failed
        ended_s = self._clock.monotonic_s()
        pause_s = max(LISTED_AGAIN_S, LISTED_PAUSES * (ended_s - begun_s))
        return _Listed(digests, error, ended_s + pause_s)


def _settled(arrival: Arrival, now_us: int) -> Iterator[bytes]:
    place = place_at(arrival.path, arrival.options)
    paths = place.listed() if place.is_directory() else place.matched()
    paths = visible(paths, arrival.path)
    if len(paths) > ARRIVAL_FILES_MAX:
        raise StepError(
            f"there are {len(paths):,} files",
            where=f"arrival({shown(arrival.path)!r})",
            expected=f"at most {ARRIVAL_FILES_MAX:,}",
            next_step="move files away once they were processed, or watch a narrower pattern",
        )
    for path in paths:
        mark = place.mark(path)
        if mark is None:
            continue
        if place.is_whole or mark.modified_us <= now_us - SETTLED_US:
            yield file_digest(path, mark.size_bytes, mark.modified_us)


class LocalFacts:
    """What there is. For one look at one trigger, by one thread."""

    def __init__(self, log: LocalLog, listings: Listings, *, now_us: int, anchor_us: int) -> None:
        """``anchor_us`` is when the trigger was first stored."""
        self.now_us = now_us
        self.anchor_us = anchor_us
        self._log = log
        self._listings = listings

    def files(self, arrival: Arrival) -> frozenset[bytes]:
        """Return a ``file_digest`` of each file that nobody is writing any more."""
        return self._listings.files(arrival)

    def finished(self, flow: str) -> int:
        """Return how often a flow has come to an end."""
        with self._log.store.read() as snapshot:
            rows = snapshot.run("flows/finished_get", (flow,))
        return rows[0][0] if rows else 0

    def topic(self, topic: str) -> TopicFacts | None:
        """Return a topic; None if there is no such topic."""
        try:
            info = self._log.topic(topic)
            return TopicFacts(info.id, tuple(self._log.ends(info)))
        except UnknownTopic:
            return None

    def first_us(self, topic: str, offsets: Sequence[int]) -> int | None:
        """Return when the first event at or behind these offsets was appended; None if there is none."""
        found: list[int] = []
        # A topic that is deleted meanwhile has no events, and the next look sees what retention has left.
        with contextlib.suppress(UnknownTopic, OffsetOutOfRange):
            info = self._log.topic(topic)
            for number, offset in enumerate(offsets[: info.partitions]):
                batch = self._log.read(info, number, offset, events_max=1)
                if batch is not None:
                    found.append(int(batch.appended_us()[0]))
        return min(found, default=None)
