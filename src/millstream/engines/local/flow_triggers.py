"""Triggers in the store's catalog, and the loop that runs what is due.

    look ──► note what there is ──► run the flow ──► store the note, if nobody else has meanwhile

A kill before the last step runs the flow again: a stream then finds nothing new, and a batch does its work anew. Of
several processes one holds ``run/triggers.lock``; the kernel frees it when its holder dies, and another goes on within
a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from millstream.engines.local.flow_file_intake import SETTLED_US
from millstream.engines.local.flow_finished import FINISHED
from millstream.engines.local.flow_places import place_at, visible
from millstream.engines.local.log import LocalLog
from millstream.flows.contract import Stop
from millstream.flows.flow import Flow
from millstream.flows.places import plain_path
from millstream.flows.report import RunReport
from millstream.flows.triggers import Note, Trigger, TriggerStatus
from millstream.primitives.backoff import Backoff
from millstream.primitives.errors import (
    ConfigurationError,
    MillstreamError,
    StoreClosed,
    StoreStopped,
    UnknownTopic,
)
from millstream.primitives.limits import WAIT_FALLBACK_S
from millstream.primitives.telemetry import reach
from millstream.store import Snapshot, Transaction
from millstream.store.locks import FileLock

BACKOFF: Final = Backoff.exponential("5s", longest="10m", jitter=False)
"""How long a trigger whose run has failed waits."""
LOOK_PAUSE_S: Final = 0.05
"""Between two looks of a process that has nothing to run."""


@dataclass(frozen=True)
class _Stored:
    anchor_us: int
    seen: Mapping[str, Note]
    turn: int
    runs: int = 0
    last_us: int | None = None
    failures: int = 0
    retry_us: int | None = None
    error: str | None = None


class LocalTriggers:
    """The ``TriggerEngine`` of one store. Any thread."""

    def __init__(self, log: LocalLog) -> None:
        """Use an open store; closing it is the caller's."""
        self._log = log
        self._store = log.store

    def statuses(self, triggers: Sequence[Trigger]) -> list[TriggerStatus]:
        """Return where they stand; nothing is changed."""
        return [self._status(trigger) for trigger in triggers]

    def _status(self, trigger: Trigger) -> TriggerStatus:
        now_us = self._store.clock.now_us()
        stored = self._stored(trigger.name) or _Stored(now_us, {}, turn=0)
        due_us, error = None, stored.error
        try:
            due_us = _due_us(trigger, stored, self._facts(stored.anchor_us))
        except (StoreClosed, StoreStopped):
            raise
        except MillstreamError as unknown:  # the files cannot be looked at
            error = str(unknown)
        return TriggerStatus(
            name=trigger.name,
            when=tuple(map(str, trigger.conditions)),
            mode=trigger.mode,
            runs=stored.runs,
            last_us=stored.last_us,
            due_us=due_us,
            failures=stored.failures,
            error=error,
        )

    def run_due(self, triggers: Sequence[Trigger], *, report: Callable[[str], None]) -> int:
        """Run what is due now, one after the other, and return how many that were."""
        with self._duty() as lock:
            if not lock.try_acquire():
                return 0
            return self._look(triggers, report, None)[0]

    def run(
        self, triggers: Sequence[Trigger], *, report: Callable[[str], None], stop: Stop
    ) -> None:
        """Run what becomes due until told to stop. Raises StoreClosed, StoreStopped."""
        holds = False
        with (
            self._duty() as lock,
            self._store.waiter(FINISHED, *self._channels(triggers)) as waiter,
        ):
            while not stop.is_set():
                holds = holds or lock.try_acquire()
                waiter.arm()
                runs, due_us = self._look(triggers, report, stop) if holds else (0, None)
                if not runs:
                    waiter.wait(self._left_s(due_us))
                    # A topic that gets a thousand appends a second does not need as many looks.
                    self._store.clock.wait_s(LOOK_PAUSE_S)

    def _left_s(self, due_us: int | None) -> float:
        """Return how long there is nothing to do unless something is committed: a second at most, for files."""
        if due_us is None:
            return WAIT_FALLBACK_S
        return min(WAIT_FALLBACK_S, max(0, due_us - self._store.clock.now_us()) / 1e6)

    def _channels(self, triggers: Sequence[Trigger]) -> list[str]:
        found = []
        for topic in sorted(set().union(*(trigger.topics() for trigger in triggers))):
            try:
                found.append(f"topic:{self._log.topic(topic).id}")
            except UnknownTopic:
                continue  # looked at each second
        return found

    @contextmanager
    def _duty(self) -> Iterator[FileLock]:
        lock = FileLock(self._store.directory.run / "triggers.lock")
        try:
            yield lock
        finally:
            lock.close()

    def _look(
        self, triggers: Sequence[Trigger], report: Callable[[str], None], stop: Stop | None
    ) -> tuple[int, int | None]:
        """Run what is due; return how many runs that were, and when the next is due as far as time alone says."""
        runs, later = 0, []
        # All of them first: one that is new waits for what the others do in this look.
        for trigger, stored in [(one, self._known(one)) for one in triggers]:
            if stop is not None and stop.is_set():
                break
            facts = self._facts(stored.anchor_us)
            due_us = stored.retry_us
            if due_us is None or due_us <= facts.now_us:
                try:
                    due_us = _due_us(trigger, stored, facts)
                except (StoreClosed, StoreStopped):
                    raise
                except MillstreamError as error:  # the files cannot be looked at
                    self._failed(trigger.name, stored, error, report)
                    continue
            if due_us is None:
                continue
            if due_us > facts.now_us:
                later.append(due_us)
                continue
            self._run(trigger, stored, facts, report, stop)
            runs += 1
        return runs, min(later, default=None)

    def _run(
        self,
        trigger: Trigger,
        stored: _Stored,
        facts: _Facts,
        report: Callable[[str], None],
        stop: Stop | None,
    ) -> None:
        """Run one flow, and store what it had before it."""
        # Taken before the run: what comes while it goes on counts for the next.
        seen = {str(one): one.note(facts) for one in trigger.conditions}
        reach("trigger.noted")
        try:
            done = _ran(trigger, stop)
        except (StoreClosed, StoreStopped):
            raise
        except Exception as error:  # noqa: BLE001 - functions of the user run in it; the trigger tries again
            self._failed(trigger.name, stored, error, report)
            return
        if trigger.mode == "stream" and stop is not None and stop.is_set():
            report(str(done))
            return  # it may not have come to its end
        reach("trigger.ran")
        params = {
            "name": trigger.name,
            "turn": stored.turn,
            "seen": json.dumps(seen),
            "last_us": facts.now_us,
        }
        self._store.write(lambda tx: tx.run("flows/trigger_done", params))
        reach("trigger.stored")
        report(str(done))

    def _failed(
        self, name: str, stored: _Stored, error: Exception, report: Callable[[str], None]
    ) -> None:
        wait_us = BACKOFF.bound_us(stored.failures + 1)
        text = (
            str(error) if isinstance(error, MillstreamError) else f"{type(error).__name__}: {error}"
        )
        params = {
            "name": name,
            "turn": stored.turn,
            "retry_us": self._store.clock.now_us() + wait_us,
            "error": text,
        }
        self._store.write(lambda tx: tx.run("flows/trigger_failed", params))
        report(f"trigger {name} failed, and is tried again in {wait_us / 1e6:g} s: {text}")

    def _stored(self, name: str) -> _Stored | None:
        with self._store.read() as snapshot:
            return _read(snapshot, name)

    def _known(self, trigger: Trigger) -> _Stored:
        """Return what is stored; a trigger that is new, or has a new condition, begins to wait now."""
        stored = self._stored(trigger.name)
        missing = [
            one for one in trigger.conditions if stored is None or str(one) not in stored.seen
        ]
        if stored is not None and not missing:
            return stored
        now_us = self._store.clock.now_us()
        facts = self._facts(now_us if stored is None else stored.anchor_us)
        begun = {str(one): one.first(facts) for one in missing}

        def work(tx: Transaction) -> _Stored:
            if stored is None:
                tx.run("flows/trigger_insert", (trigger.name, now_us, json.dumps(begun)))
            else:
                kept = json.dumps({**stored.seen, **begun})
                params = {"name": trigger.name, "turn": stored.turn, "seen": kept}
                tx.run("flows/trigger_see", params)
            found = _read(tx, trigger.name)
            assert found is not None, "it was just stored"
            return found

        return self._store.write(work)

    def _facts(self, anchor_us: int) -> _Facts:
        return _Facts(self._log, self._store.clock.now_us(), anchor_us)


def _read(snapshot: Snapshot, name: str) -> _Stored | None:
    for anchor_us, seen, *rest in snapshot.run("flows/trigger_get", (name,)):
        return _Stored(anchor_us, json.loads(seen), *rest)
    return None


def _due_us(trigger: Trigger, stored: _Stored, facts: _Facts) -> int | None:
    """Return when it is due; one that has failed not before its time."""
    dues = []
    for condition in trigger.conditions:
        key = str(condition)
        noted = stored.seen[key] if key in stored.seen else condition.first(facts)
        dues.append(condition.due_us(noted, facts))
    due_us = min((us for us in dues if us is not None), default=None)
    if due_us is None or stored.retry_us is None:
        return due_us
    return max(due_us, stored.retry_us)


def _ran(trigger: Trigger, stop: Stop | None) -> RunReport:
    flow = trigger.make()
    if not isinstance(flow, Flow):
        raise ConfigurationError(
            f"the function gave a {type(flow).__name__}",
            where=f"trigger {trigger.name!r}",
            expected="a flow: what app.read(…) and the steps behind it return",
            next_step="return it from the function under @app.trigger",
        )
    flow = flow.named(trigger.name)
    return flow.run() if trigger.mode == "batch" else flow.stream(until="now", stop=stop)


class _Facts:
    """What there is when somebody looks. For one look: it remembers files that it has listed."""

    def __init__(self, log: LocalLog, now_us: int, anchor_us: int) -> None:
        self.now_us = now_us
        self.anchor_us = anchor_us
        self._log = log
        self._listed: dict[str, dict[str, list[int]]] = {}

    def files(self, pattern: str) -> dict[str, list[int]]:
        if pattern not in self._listed:
            self._listed[pattern] = dict(self._settled(pattern))
        return self._listed[pattern]

    def _settled(self, pattern: str) -> Iterator[tuple[str, list[int]]]:
        place = place_at(plain_path(pattern), {})
        paths = place.listed() if place.is_directory() else place.matched()
        for path in visible(paths, pattern):
            mark = place.mark(path)
            if mark is None:
                continue
            if place.is_whole or mark.modified_us <= self.now_us - SETTLED_US:
                yield path, [mark.size_bytes, mark.modified_us]

    def finished(self, flow: str) -> int:
        with self._log.store.read() as snapshot:
            rows = snapshot.run("flows/finished_get", (flow,))
        return rows[0][0] if rows else 0

    def ends(self, topic: str) -> list[int]:
        try:
            return [end for _, end in self._log.ends(self._log.topic(topic))]
        except UnknownTopic:
            return []

    def first_us(self, topic: str, offsets: Sequence[int]) -> int | None:
        try:
            info = self._log.topic(topic)
        except UnknownTopic:
            return None
        found = []
        for number, (first, end) in enumerate(self._log.ends(info)):
            offset = max(first, offsets[number])
            if offset < end and (batch := self._log.read(info, number, offset, events_max=1)):
                found.append(int(batch.appended_us()[0]))
        return min(found, default=None)
