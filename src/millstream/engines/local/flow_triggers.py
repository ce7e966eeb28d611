"""Triggers in the store's catalog, and the loop that runs what is due.

    look ──► note what there is ──► run the flow ──► its last commit stores the note too, or nothing of either

That commit is of a batch the one that shows what it gives to topics, tasks and models, and of a stream the one that
counts its end. Nothing of it is stored if somebody else has stored a note meanwhile. What a batch gives to a file, a
table or a lake is there before: a kill between the two gives it once more.

Of several processes one runs a trigger: it holds ``run/trigger-<digest of the name>.lock``, which the kernel frees when
it dies, and another goes on within a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from millstream.engines.local.batch import LocalBatch
from millstream.engines.local.flow_finished import FINISHED
from millstream.engines.local.flow_trigger_facts import Listings, LocalFacts
from millstream.engines.local.flow_trigger_notes import BACKOFF, NewNote, Stored, read_trigger
from millstream.engines.local.log import LocalLog
from millstream.engines.local.stream import LocalStream
from millstream.flows.contract import Stop
from millstream.flows.flow import Flow
from millstream.flows.limits import BATCH_EVENTS
from millstream.flows.merging import trains
from millstream.flows.report import RunReport
from millstream.flows.trigger_conditions import Facts, Note
from millstream.flows.triggers import Trigger, TriggerStatus
from millstream.primitives.errors import (
    ConfigurationError,
    MillstreamError,
    StoreFull,
    UnknownTopic,
)
from millstream.primitives.limits import WAIT_FALLBACK_S
from millstream.primitives.telemetry import reach
from millstream.store import Store, Transaction
from millstream.store.locks import FileLock

LOOK_PAUSE_S: Final = 0.05
"""Between two looks of a process that has nothing to run."""
ERROR_CHARS_MAX: Final = 4_000
"""How much is kept of what an error says."""


@dataclass
class _Session:
    """What a process keeps from look to look. One thread."""

    store: Store
    listings: Listings
    locks: dict[str, FileLock] = field(default_factory=dict)
    mine: set[str] = field(default_factory=set)
    held_back: dict[str, int] = field(default_factory=dict)
    """Until when a run is not tried again whose failure the store had no room for."""

    def takes(self, name: str) -> bool:
        """Return whether this process runs that trigger."""
        if name not in self.locks:
            digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
            self.locks[name] = FileLock(self.store.directory.run / f"trigger-{digest}.lock")
        if name not in self.mine and self.locks[name].try_acquire():
            self.mine.add(name)
        return name in self.mine

    def tell_others(self, report: Callable[[str], None], triggers: Sequence[Trigger]) -> None:
        """Tell which triggers other processes run, if there are any."""
        others = [one.name for one in triggers if one.name not in self.mine]
        if others:
            report(f"run by another process, until that ends: {', '.join(others)}")

    def close(self) -> None:
        """Let others run them."""
        for lock in self.locks.values():
            lock.close()


class LocalTriggers:
    """The ``TriggerEngine`` of one store. Any thread."""

    def __init__(self, log: LocalLog) -> None:
        """Use an open store; closing it is the caller's."""
        self._log = log
        self._store = log.store

    def statuses(self, triggers: Sequence[Trigger]) -> list[TriggerStatus]:
        """Return where they stand; nothing is changed."""
        listings = Listings(self._store.clock)
        return [self._status(trigger, listings) for trigger in triggers]

    def _status(self, trigger: Trigger, listings: Listings) -> TriggerStatus:
        now_us = self._store.clock.now_us()
        stored = self._stored(trigger.name) or Stored(now_us, {}, turn=0)
        due_us, failed = _due_us(trigger, stored, self._facts(stored.anchor_us, listings))
        return TriggerStatus(
            name=trigger.name,
            when=tuple(map(str, trigger.conditions)),
            mode=trigger.mode,
            runs=stored.runs,
            last_us=stored.last_us,
            due_us=due_us,
            failures=stored.failures,
            error=stored.error if failed is None else _text(failed),
        )

    def run_due(self, triggers: Sequence[Trigger], *, report: Callable[[str], None]) -> int:
        """Run what is due now, one after the other, and return how many that were."""
        with self._session() as session:
            runs, _ = self._look(triggers, session, report, None)
        session.tell_others(report, triggers)
        return runs

    def run(
        self, triggers: Sequence[Trigger], *, report: Callable[[str], None], stop: Stop
    ) -> None:
        """Run what becomes due until told to stop. Raises StoreClosed, StoreStopped."""
        with (
            self._session() as session,
            self._store.waiter(FINISHED, *self._channels(triggers)) as waiter,
        ):
            is_told = False
            while not stop.is_set():
                waiter.arm()
                runs, due_us = self._look(triggers, session, report, stop)
                if not is_told:
                    session.tell_others(report, triggers)
                    is_told = True
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
    def _session(self) -> Iterator[_Session]:
        session = _Session(self._store, Listings(self._store.clock))
        try:
            yield session
        finally:
            session.close()

    def _look(
        self,
        triggers: Sequence[Trigger],
        session: _Session,
        report: Callable[[str], None],
        stop: Stop | None,
    ) -> tuple[int, int | None]:
        """Run what is due; return how many runs that were, and when the next is due as far as time alone says."""
        runs, later = 0, []
        mine = [one for one in triggers if session.takes(one.name)]
        # All of them first: one that is new waits for what the others do in this look.
        for trigger, stored in [(one, self._known(one, session)) for one in mine]:
            if stop is not None and stop.is_set():
                break
            facts = self._facts(stored.anchor_us, session.listings)
            held_us = session.held_back.get(trigger.name) or stored.held_back_us(facts.now_us)
            if held_us is not None and held_us > facts.now_us:
                later.append(held_us)
                continue
            due_us, failed = _due_us(trigger, stored, facts)
            if due_us is not None and due_us <= facts.now_us:
                self._run(trigger, stored, facts, session, report, stop)
                runs += 1
                continue
            if failed is not None:
                self._failed(trigger.name, stored, failed, session, report)
            elif stored.failures:
                self._mended(trigger.name, stored)
            if due_us is not None:
                later.append(due_us)
        return runs, min(later, default=None)

    def _run(
        self,
        trigger: Trigger,
        stored: Stored,
        facts: LocalFacts,
        session: _Session,
        report: Callable[[str], None],
        stop: Stop | None,
    ) -> None:
        """Run one flow; what it had before it is stored by its last commit."""
        # Taken before the run: what comes while it goes on counts for the next.
        seen = json.dumps(_seen(trigger, stored, facts))
        note = NewNote(trigger.name, stored.turn, seen, facts.now_us)
        session.held_back.pop(trigger.name, None)
        reach("trigger.noted")
        try:
            done = self._ran(trigger, stop, note)
            is_stopped = trigger.mode == "stream" and stop is not None and stop.is_set()
            if not note.is_stored and not is_stopped:
                self._store.write(note)  # the flow runs elsewhere: in another store
        except Exception as error:  # noqa: BLE001 - functions of the user run in it; the trigger tries again
            self._failed(trigger.name, stored, error, session, report)
            return
        if note.is_stored:
            reach("trigger.stored")
        report(str(done))  # a stream that was stopped may not have come to its end

    def _ran(self, trigger: Trigger, stop: Stop | None, note: NewNote) -> RunReport:
        """Run the flow; the note becomes part of its last commit if it runs on this store."""
        flow = _flow_of(trigger)
        if trigger.mode == "batch":
            batch = flow.engines.batch
            if not isinstance(batch, LocalBatch) or batch.store is not self._store:
                return flow.run()
            batch.check_batch(flow.plan)
            return batch.run(flow.plan, name=flow.name, collect=False, progress=None, at_end=note)
        stream = flow.engines.stream
        if not isinstance(stream, LocalStream) or stream.store is not self._store:
            return flow.stream(until="now", stop=stop)
        return stream.stream(
            flow.plan,
            name=flow.name,
            until="now",
            batch_events=BATCH_EVENTS,
            idle_us=None,
            shared=False,
            stop=stop,
            progress=None,
            at_end=note,
        )

    def _failed(
        self,
        name: str,
        stored: Stored,
        error: Exception,
        session: _Session,
        report: Callable[[str], None],
    ) -> None:
        """Take note of an error and tell it. Raises StoreClosed, StoreStopped: then nothing can be run any more."""
        wait_us = BACKOFF.bound_us(stored.failures + 1)
        retry_us, text = self._store.clock.now_us() + wait_us, _text(error)
        params = {"name": name, "turn": stored.turn, "retry_us": retry_us, "error": text}
        try:
            is_noted = bool(self._store.write(lambda tx: tx.run("flows/trigger_failed", params)))
            session.held_back.pop(name, None)
        except StoreFull:  # perhaps that is what has failed
            is_noted, session.held_back[name] = True, retry_us
        again = f", and is tried again in {wait_us / 1e6:g} s" if is_noted else ""
        report(f"trigger {name} failed{again}: {text}")

    def _mended(self, name: str, stored: Stored) -> None:
        """Forget an error: what could not be looked at can be, or what the run failed for is gone."""
        self._store.write(lambda tx: tx.run("flows/trigger_mended", (name, stored.turn)))

    def _stored(self, name: str) -> Stored | None:
        with self._store.read() as snapshot:
            return read_trigger(snapshot, name)

    def _known(self, trigger: Trigger, session: _Session) -> Stored:
        """Return what is stored; a trigger that is new, or has a new condition, begins to wait now."""
        stored = self._stored(trigger.name)
        now_us = self._store.clock.now_us()
        facts = self._facts(now_us if stored is None else stored.anchor_us, session.listings)
        missing = [
            one for one in trigger.conditions if stored is None or not stored.knows(one, facts)
        ]
        if stored is not None and not missing:
            return stored
        begun = {one.key: one.first(facts) for one in missing}

        def work(tx: Transaction) -> Stored:
            if stored is None:
                tx.run("flows/trigger_insert", (trigger.name, now_us, json.dumps(begun)))
            else:
                kept = json.dumps({**stored.seen, **begun})
                params = {"name": trigger.name, "turn": stored.turn, "seen": kept}
                tx.run("flows/trigger_see", params)
            found = read_trigger(tx, trigger.name)
            assert found is not None, "it was just stored"
            return found

        return self._store.write(work)

    def _facts(self, anchor_us: int, listings: Listings) -> LocalFacts:
        return LocalFacts(
            self._log, listings, now_us=self._store.clock.now_us(), anchor_us=anchor_us
        )


def _due_us(trigger: Trigger, stored: Stored, facts: Facts) -> tuple[int | None, Exception | None]:
    """Return when it is due, one that has failed not before its time; and why a condition cannot be looked at."""
    dues, failed = [], None
    for condition in trigger.conditions:
        try:
            dues.append(condition.due_us(stored.noted(condition, facts), facts))
        except Exception as error:  # noqa: BLE001 - of a file system; any other condition is enough
            failed = error
    due_us = min((us for us in dues if us is not None), default=None)
    held_us = stored.held_back_us(facts.now_us)
    if due_us is not None and held_us is not None:
        due_us = max(due_us, held_us)
    return due_us, failed


def _seen(trigger: Trigger, stored: Stored, facts: Facts) -> dict[str, Note]:
    """Return what there is; for a condition that cannot be looked at, what there was."""
    seen = {}
    for condition in trigger.conditions:
        try:
            seen[condition.key] = condition.note(facts)
        except Exception:  # noqa: BLE001 - it was told, or will be by the next look
            seen[condition.key] = stored.noted(condition, facts)
    return seen


def _flow_of(trigger: Trigger) -> Flow:
    flow = trigger.make()
    where = f"trigger {trigger.name!r}"
    if not isinstance(flow, Flow):
        raise ConfigurationError(
            f"the function gave a {type(flow).__name__}",
            where=where,
            expected="a flow: what app.read(…) and the steps behind it return",
            next_step="return it from the function under @app.trigger",
        )
    if not flow.plan.is_ended and not trains(flow.plan):
        raise ConfigurationError(
            "the flow gives its rows to nobody",
            where=where,
            expected="a flow that ends in .write(…) or .enqueue(…), or trains a model",
            next_step="add .write(…) as its last step",
        )
    return flow.named(trigger.name)


def _text(error: Exception) -> str:
    """Return what an error says, as a catalog can hold it: names of files may be no text."""
    said = str(error) if isinstance(error, MillstreamError) else f"{type(error).__name__}: {error}"
    return said[:ERROR_CHARS_MAX].encode(errors="backslashreplace").decode()
