"""The balance of the books: what the store says of every task, against what the ledger knows of its runs."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec

import millstream as ms
from millstream.tasks.limits import LISTED_TASKS_MAX, WORKER_DEATHS_MAX
from millstream.tasks.message import Outcome, TaskFilter, TaskStatus
from millstream.tasks.states import TaskState
from tests.simulation import tasks_app as shop
from tests.simulation.tasks_ledger import Ledger
from tests.simulation.tasks_sender import SINGLES

Key = tuple[str, str]
WINDOW_US = 1_000_000
LATE_STARTS = shop.RATE // 2
"""Starts of a rate that may come together: they were allowed earlier, and their process was kept from running."""
EXPIRED_START_US = 5_000_000
"""How long after its claim a task may start: a claim is what expiry decides about, and processes are stopped."""

STEPS: dict[str, tuple[str, ...]] = {
    "chain": ("add.1", "add.2", "add.3"),
    "chord": ("add.1", "add.2", "add.3", "add.4", "total.5"),
    "nested": ("add.1", "add.2", "add.3", "total.4", "add.5", "add.6", "total.7"),
    "linked": ("add.1", "add.2"),
    "broken": ("add.1", "breaking.2", "excuse.4"),
    "replacing": ("add.1", "add.2", "add.3"),
}
VALUES = {"chain": 6, "chord": 10, "nested": 19, "linked": 1, "replacing": 6}
RAISES = {
    "flaky": lambda n: n % 4,
    "asking": lambda n: 2,
    "doomed": lambda n: 2,
    "batched": lambda n: 2 if shop.is_refused(n) else 0,
}


class Books:
    """One store and one ledger, after everything has ended."""

    def __init__(self, ledger: Ledger, app: ms.App) -> None:
        self.ledger = ledger
        self.app = app
        self.engine = app.tasks_engine
        self.counts: Counter[str] = Counter()

    def status(self, task_id: str) -> TaskStatus | None:
        return self.engine.status(task_id)

    def deaths(self, task_id: str) -> int:
        """Return how many workers died under a task; each of them was struck, or found itself evicted."""
        deaths = 0
        for attempt in self.engine.attempts(task_id):
            if attempt.outcome is Outcome.WORKER_DIED:
                process = int(attempt.worker.rpartition(":")[2])
                known = self.ledger.strikes[process] or self.ledger.evictions[process]
                assert known, f"nothing happened to the worker of {attempt}"
                deaths += 1
        return deaths

    def is_given_up(self, status: TaskStatus) -> bool:
        """Tell whether a task failed because its workers died too often: the stated end of what looks like poison."""
        if status.state is not TaskState.FAILED or self.deaths(status.id) < WORKER_DEATHS_MAX:
            return False
        self.counts["given up"] += 1
        return True

    # ---- single calls ---------------------------------------------------------------------------

    def verify_single(self, key: Key) -> None:
        kind, n = key
        sent = self.ledger.sent.get(key)
        own = self.status(f"{kind}-{n}")
        runs = self.ledger.runs.get(key, [])
        if kind == "mute":
            lost = sent is not None and not runs
            assert not lost or (own is not None and self.is_given_up(own)), f"{key} is lost"
            return
        status = own if sent is None else self.status(sent.id)
        assert status is not None or (sent is None and not runs), f"{key} is lost"
        if status is None:
            self.counts["never stored"] += 1
            return
        assert status.state.is_final, status
        if kind == "once":
            self._verify_once(status, len(runs))
        elif not self.is_given_up(status):
            self._verify_end(kind, int(n), status)

    def _verify_once(self, status: TaskStatus, runs: int) -> None:
        assert runs <= 1, f"{status.id} ran {runs} times"
        if status.state is TaskState.SUCCEEDED:
            assert runs == 1
            return
        assert status.state is TaskState.FAILED, status
        self.counts["at most once, and failed"] += 1

    def _verify_end(self, kind: str, n: int, status: TaskStatus) -> None:
        if kind in RAISES:
            attempts = self.engine.attempts(status.id)
            raised = sum(one.outcome is Outcome.RAISED for one in attempts)
            assert raised == RAISES[kind](n), attempts
        if kind == "doomed" or (kind == "batched" and shop.is_refused(n)):
            assert status.state is TaskState.FAILED, status
        elif kind in {"expiring", "withdrawn"} and status.state is TaskState.REVOKED:
            self.counts[kind] += 1
        else:
            assert status.state is TaskState.SUCCEEDED, (status, self.engine.attempts(status.id))
            assert status.result is not None
            value = {"unique": n % shop.SOURCES, "locked": n % shop.ACCOUNTS}.get(kind, n * n)
            assert msgspec.msgpack.decode(status.result) == value

    def verify_times(self) -> None:
        """Look that nothing started before its ETA, nor long after it had expired."""
        for key, line in self.ledger.begun.items():
            for run in self.ledger.runs.get(key, []):
                if key[0] == "later":
                    assert run.start.extra >= line.extra, f"{run.start} before {line.extra}"
                elif key[0] == "expiring":
                    assert run.start.extra < line.extra + EXPIRED_START_US, run.start

    # ---- workflows ------------------------------------------------------------------------------

    def verify_workflow(self, key: Key) -> None:
        kind, n = key
        steps = [
            (name, f"{n}.{label}") for name, _, label in (s.partition(".") for s in STEPS[kind])
        ]
        sent = self.ledger.sent.get(key)
        ran = [step for step in steps if step in self.ledger.runs]
        if sent is None and not ran:
            self.counts["never stored"] += 1
            return
        ids = {step: {run.start.id for run in self.ledger.runs[step]} for step in ran}
        assert all(len(some) == 1 for some in ids.values()), f"{key} has a step twice: {ids}"
        if any(self._is_lost_step(task_id) for some in ids.values() for task_id in some):
            return
        assert ran == steps, f"{key} is not complete: {ran}"
        body = ("total", f"{n}.3")
        assert kind != "broken" or body not in self.ledger.runs, "the body of a broken chord ran"
        if sent is None:
            return
        status = self.status(sent.id)
        assert status is not None, f"{key} is lost"
        if kind == "broken":
            assert status.state is TaskState.FAILED, status
        else:
            assert status.state is TaskState.SUCCEEDED, status
            assert status.result is not None
            assert msgspec.msgpack.decode(status.result) == VALUES[kind]

    def _is_lost_step(self, task_id: str) -> bool:
        status = self.status(task_id)
        return status is not None and self.is_given_up(status)

    # ---- over all -------------------------------------------------------------------------------

    def verify_runs(self) -> None:
        """Look that whatever ran again raised, or had lost its lease."""
        for key, runs in self.ledger.runs.items():
            self.counts["run again after a death"] += self.ledger.verify_reruns(key)
            self.counts["runs"] += len(runs)

    def verify_gates(self) -> None:
        """Look that locks, limits, rates and unique calls held at every moment."""
        accounts: dict[int, list[Key]] = defaultdict(list)
        sources: dict[int, list[Key]] = defaultdict(list)
        for key in self.ledger.runs:
            if key[0] == "locked":
                accounts[int(key[1]) % shop.ACCOUNTS].append(key)
            elif key[0] == "unique":
                sources[int(key[1]) % shop.SOURCES].append(key)
        for keys in (*accounts.values(), *sources.values()):
            self.ledger.verify_room(keys, 1)
        narrow = [key for key in self.ledger.runs if key[0] == "narrow"]
        self.counts["most at once of a limit"] = self.ledger.verify_room(narrow, shop.NARROW)
        self._verify_rate()

    def _verify_rate(self) -> None:
        starts = sorted(
            run.start.at_us
            for key, runs in self.ledger.runs.items()
            if key[0] == "rated"
            for run in runs
        )
        first = 0
        for last, at_us in enumerate(starts):
            while starts[first] < at_us - WINDOW_US:
                first += 1
            assert last - first <= shop.RATE + LATE_STARTS, "more starts in a second than allowed"

    def verify_schedules(self) -> None:
        """Look that every due time was handled once: run, or passed over by its policy."""
        ids = self.app.tasks.control.ids(
            TaskFilter(name=shop.tick.name), tasks_max=LISTED_TASKS_MAX
        )
        dues: dict[str, list[int]] = defaultdict(list)
        for one in ids:
            name, _, due_us = one.rpartition(":")
            dues[name].append(int(due_us))
            status = self.status(one)
            assert status is not None
            assert status.state is TaskState.SUCCEEDED or self.is_given_up(status), status
            assert ("tick", one) in self.ledger.runs or self.is_given_up(status)
        schedules = {one.name: one for one in self.app.schedules.list()}
        assert set(schedules) == {f"tick-{policy}" for policy in shop.POLICIES}
        every = sorted(dues["tick-all"])
        for name, schedule in schedules.items():
            found = sorted(dues[name])
            assert len(found) == len(set(found)) == schedule.runs
            assert schedule.next_us is not None
            handled = list(range(every[0], schedule.next_us, shop.TICK_US))
            assert schedule.runs + schedule.skipped == len(handled)
            assert set(found) <= set(handled)
            if name == "tick-all":
                assert found == handled, "a due time was left out"
                assert schedule.skipped == 0
            self.counts[f"{name} runs"] = schedule.runs


def balance(ledger: Ledger, app: ms.App) -> str:
    """Compare everything; return what is worth telling."""
    books = Books(ledger, app)
    for key in ledger.begun:
        if key[0] in SINGLES:
            books.verify_single(key)
        else:
            books.verify_workflow(key)
    books.verify_runs()
    books.verify_times()
    books.verify_gates()
    books.verify_schedules()
    return ", ".join(f"{count} {what}" for what, count in sorted(books.counts.items()))
