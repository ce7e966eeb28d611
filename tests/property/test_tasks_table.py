"""Each row of the table of states is reached by a short life of a real task; a row without such a life fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from millstream.engines.local.tasks import LocalTasks
from millstream.store import Store
from millstream.store.catalog import connect
from millstream.tasks.limits import RECOVERY_TICK_US
from millstream.tasks.message import Claimed, Outcome, Raised, Succeeded, TaskMessage
from millstream.tasks.states import TRANSITIONS, TaskEvent, TaskState, Transition
from millstream.testing.clock import VirtualClock
from tests.tasks_kit import guard_transitions, us

LEASE_US = 3 * RECOVERY_TICK_US
SECOND_US = 1_000_000
TTL_US = 10**15


class Life:
    """One engine under a clock that stands still, and every change of state that its catalog saw."""

    def __init__(self, store: Store, clock: VirtualClock) -> None:
        self.clock = clock
        self.engine = LocalTasks(store)
        self._lease = self.engine.join(["default"], lease_us=LEASE_US)
        self._held: list[Claimed] = []
        self._watch: apsw.Connection = connect(store.directory.catalog, vfs=None)
        self._watch.execute(
            """
            CREATE TABLE walked (before TEXT, after TEXT, reason TEXT);
            CREATE TRIGGER walk_birth AFTER INSERT ON tasks
            BEGIN INSERT INTO walked VALUES (NULL, NEW.state, NULL); END;
            CREATE TRIGGER walk_change AFTER UPDATE OF state ON tasks
            BEGIN INSERT INTO walked VALUES (OLD.state, NEW.state, NEW.revoke_reason); END;
            """
        )

    def close(self) -> None:
        self._watch.close()

    def walked(self) -> list[tuple[str | None, str, str | None]]:
        """Return the changes since the last call."""
        found = list(self._watch.execute("SELECT before, after, reason FROM walked"))
        self._watch.execute("DELETE FROM walked")
        return found

    def send(
        self,
        task_id: str = "x",
        *,
        eta_s: int | None = None,
        expires_s: int | None = None,
        **more: Any,
    ) -> None:
        now_us = self.clock.now_us()
        self.engine.enqueue(
            [
                TaskMessage(
                    id=task_id,
                    name="t",
                    queue="default",
                    priority=5,
                    arguments=b"\x80",
                    eta_us=None if eta_s is None else now_us + eta_s * SECOND_US,
                    start_before_us=None if expires_s is None else now_us + expires_s * SECOND_US,
                    **more,
                )
            ]
        )

    def claim(self) -> None:
        self._held += self.engine.exchange(self._lease, (), want=10).claimed

    def succeed(self) -> None:
        now_us = self.clock.now_us()
        done = Succeeded(self._held.pop(0), b"\x01", TTL_US, now_us, now_us)
        assert self.engine.exchange(self._lease, [done], want=0).refused == 0

    def fail(self, *, retry_s: int | None = None) -> None:
        now_us = self.clock.now_us()
        delay_us = None if retry_s is None else retry_s * SECOND_US
        error = Raised(self._held.pop(0), "E", "e", "", delay_us, now_us, now_us)
        assert self.engine.exchange(self._lease, [error], want=0).refused == 0

    def hand_back(self) -> None:
        assert self.engine.hand_back(self._lease, [self._held.pop(0)]) == 1

    def revoke(self) -> None:
        assert self.engine.control.revoke(["x"], reason="no") == 1

    def requeue(self) -> None:
        assert self.engine.control.requeue(["x"]) == 1

    def wait(self, seconds: int) -> None:
        self.clock.advance(us(seconds * SECOND_US))

    def look(self) -> None:
        self.engine.recover()

    def die(self) -> None:
        """Show no sign of life for a lease, while somebody looks."""
        for _ in range(5):
            self.wait(1)
            self.look()

    def worker_deaths(self) -> int:
        return sum(one.outcome is Outcome.WORKER_DIED for one in self.engine.attempts("x"))

    # What leads to the states in which a task waits.

    def be_scheduled(self, **more: Any) -> None:
        self.send(eta_s=5, **more)

    def be_blocked(self, **more: Any) -> None:
        self.send("first", lock_key="lock:x")
        self.send(lock_key="lock:x", **more)
        self.claim()

    def be_retrying(self, **more: Any) -> None:
        self.send(**more)
        self.claim()
        self.fail(retry_s=5)

    def run(self, **more: Any) -> None:
        self.send(**more)
        self.claim()

    def be_failed(self) -> None:
        self.run()
        self.fail()

    def be_revoked(self) -> None:
        self.send()
        self.revoke()


Step = Callable[[Life], None]


def soon_over(be: Callable[..., None]) -> Step:
    """Return a step that leads to a state, of a task that expires in it."""
    return lambda life: (be(life, expires_s=2), life.wait(3))[0]


def later(be: Step) -> Step:
    return lambda life: (be(life), life.wait(6))[0]


S, E = TaskState, TaskEvent
LIVES: dict[tuple[TaskState | None, TaskEvent], tuple[Step, Step]] = {
    (None, E.ENQUEUE): (lambda life: None, Life.send),
    (None, E.SCHEDULE): (lambda life: None, Life.be_scheduled),
    (S.SCHEDULED, E.DUE): (later(Life.be_scheduled), Life.claim),
    (S.RETRYING, E.DUE): (later(Life.be_retrying), Life.claim),
    (S.QUEUED, E.CLAIM): (Life.send, Life.claim),
    (S.RUNNING, E.SUCCEED): (Life.run, Life.succeed),
    (S.RUNNING, E.RETRY): (Life.run, lambda life: life.fail(retry_s=1)),
    (S.RUNNING, E.FAIL): (Life.run, Life.fail),
    (S.RUNNING, E.HAND_BACK): (Life.run, Life.hand_back),
    (S.RUNNING, E.RECOVER): (Life.run, Life.die),
    (S.RUNNING, E.ABANDON): (lambda life: life.run(acks_late=False), Life.die),
    (S.QUEUED, E.BLOCK): (lambda life: None, Life.be_blocked),
    (S.BLOCKED, E.OPEN): (Life.be_blocked, Life.succeed),
    (S.QUEUED, E.REVOKE): (Life.send, Life.revoke),
    (S.SCHEDULED, E.REVOKE): (Life.be_scheduled, Life.revoke),
    (S.BLOCKED, E.REVOKE): (Life.be_blocked, Life.revoke),
    (S.RETRYING, E.REVOKE): (Life.be_retrying, Life.revoke),
    (S.QUEUED, E.EXPIRE): (soon_over(Life.send), Life.look),
    (S.SCHEDULED, E.EXPIRE): (soon_over(Life.be_scheduled), Life.look),
    (S.BLOCKED, E.EXPIRE): (soon_over(Life.be_blocked), Life.look),
    (S.RETRYING, E.EXPIRE): (soon_over(Life.be_retrying), Life.look),
    (S.RUNNING, E.REVOKE): (lambda life: (life.run(), life.revoke())[0], Life.fail),
    (S.FAILED, E.REQUEUE): (Life.be_failed, Life.requeue),
    (S.REVOKED, E.REQUEUE): (Life.be_revoked, Life.requeue),
}
DEATHS = {TaskEvent.RECOVER: 1, TaskEvent.ABANDON: 1}


@pytest.fixture
def life(store_path: Path) -> Iterator[Life]:
    clock = VirtualClock()
    with Store.open(store_path, durability="process", clock=clock) as store:
        guard_transitions(store.directory.catalog)
        lived = Life(store, clock)
        yield lived
        lived.close()


@pytest.mark.parametrize("row", TRANSITIONS, ids=lambda row: f"{row.before or 'new'}-{row.event}")
def test_a_life_leads_through_each_row_of_the_table(life: Life, row: Transition) -> None:
    before, event = LIVES[row.before, row.event]
    before(life)
    life.walked()
    event(life)
    walked = life.walked()
    met = [reason for one, after, reason in walked if (one, after) == (row.before, row.after)]
    assert met, f"only {walked}"
    if row.after is TaskState.REVOKED:
        # Two events lead there; the reason tells them apart.
        expired = row.event is TaskEvent.EXPIRE
        assert met == ["it expired before it was started" if expired else "no"]
    assert life.worker_deaths() == DEATHS.get(row.event, 0)


def test_every_life_is_of_a_row_of_the_table() -> None:
    assert set(LIVES) == {(row.before, row.event) for row in TRANSITIONS}
