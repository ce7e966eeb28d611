"""Any order of events keeps the promises: a walk over the states, calls that come back, delays in their bounds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from millstream.engines.local.tasks import LocalTasks
from millstream.primitives.backoff import Backoff
from millstream.store import Store
from millstream.store.catalog import connect
from millstream.tasks.arguments import Arguments
from millstream.tasks.batch import Batch
from millstream.tasks.gates import Limit
from millstream.tasks.limits import RECOVERY_TICK_US, WORKER_DEATHS_MAX
from millstream.tasks.message import Claimed, Lease, Raised, Succeeded, TaskMessage
from millstream.tasks.shape import shape_of
from millstream.tasks.states import TaskState
from millstream.testing.clock import VirtualClock
from tests.tasks_kit import guard_transitions, us

LEASE_US = 3 * RECOVERY_TICK_US
TTL_US = 10**15
LIMIT = Limit("limit:t", 2, None)
BOTH = {"lock_key": "lock:x", "limit": LIMIT}
BATCH = Batch(max=3, wait="2s")


class Walk(RuleBasedStateMachine):
    """Two workers, four kinds of tasks, a clock, and a catalog that refuses what the table does not have."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._clock = VirtualClock()
        path = Path(self._folder.name) / "walk.mill"
        self._store = Store.open(path, durability="process", clock=self._clock)
        guard_transitions(self._store.directory.catalog)
        self._engine = LocalTasks(self._store)
        self._catalog = connect(self._store.directory.catalog, vfs=None)
        self._sent = 0
        self._paused = False
        self._leases: list[Lease] = []
        self._held: dict[int, list[Claimed]] = {}
        self._accepted: dict[str, int] = {}

    def teardown(self) -> None:
        self._catalog.close()
        self._store.close()
        self._folder.cleanup()

    @rule(
        name=st.sampled_from(["t", "t", "batch"]),
        priority=st.integers(0, 9),
        wait_s=st.sampled_from([None, 0, 1, 5]),
        acks_late=st.sampled_from([True, True, False]),
        gate=st.sampled_from([{}, {"lock_key": "lock:x"}, {"limit": LIMIT}, BOTH]),
        expires_s=st.sampled_from([None, None, 2, 9]),
    )
    def send(
        self,
        name: str,
        priority: int,
        wait_s: int | None,
        acks_late: bool,
        gate: dict[str, Any],
        expires_s: int | None,
    ) -> None:
        now_us = self._clock.now_us()
        eta_us = None if wait_s is None else self._clock.now_us() + wait_s * 1_000_000
        self._engine.enqueue(
            [
                TaskMessage(
                    id=str(self._sent),
                    name=name,
                    queue="default",
                    priority=priority,
                    arguments=b"\x80",
                    eta_us=eta_us,
                    acks_late=acks_late,
                    start_before_us=None if expires_s is None else now_us + expires_s * 1_000_000,
                    **gate,
                )
            ]
        )
        self._sent += 1

    @precondition(lambda self: len(self._leases) < 2)
    @rule()
    def join(self) -> None:
        lease = self._engine.join(["default"], lease_us=LEASE_US, batches={"batch": BATCH})
        self._leases.append(lease)
        self._held[lease.number] = []

    @precondition(lambda self: self._leases)
    @rule(which=st.integers(0, 1), want=st.integers(1, 4))
    def claim(self, which: int, want: int) -> None:
        lease = self._leases[which % len(self._leases)]
        exchange = self._engine.exchange(lease, (), want=want)
        claimed = exchange.claimed
        self._held[lease.number] += claimed
        assert len({task.batch for task in claimed}) <= 1
        if claimed and claimed[0].batch:
            assert {task.name for task in claimed} == {"batch"}
            assert len(claimed) <= BATCH.max
        else:
            assert len(claimed) <= want
            assert all(task.alone for task in claimed if task.name == "batch")
        if not claimed and not exchange.evicted and not self._paused:
            self._nobody_waits_for_a_batch_in_vain()

    def _nobody_waits_for_a_batch_in_vain(self) -> None:
        waiting = list(
            self._catalog.execute(
                "SELECT due_us FROM tasks WHERE name = 'batch' AND (state = 'queued' OR gate LIKE 'batch:%')"
            )
        )
        assert len(waiting) < BATCH.max
        now_us = self._clock.now_us()
        assert not any(BATCH.has_waited(due_us, now_us) for (due_us,) in waiting)

    @precondition(lambda self: any(self._held.values()))
    @rule(
        which=st.integers(0, 9),
        end=st.sampled_from(["succeed", "retry", "fail", "hand back", "succeed twice"]),
    )
    def finish(self, which: int, end: str) -> None:
        held = [(lease, task) for lease in self._leases for task in self._held[lease.number]]
        if not held:
            return
        lease, task = held[which % len(held)]
        now_us = self._clock.now_us()
        good = Succeeded(task, b"\x01", TTL_US, now_us, now_us)
        if end == "hand back":
            self._engine.hand_back(lease, [task])
        elif end.startswith("succeed"):
            done = [good] * (2 if "twice" in end else 1)
            refused = self._engine.exchange(lease, done, want=0).refused
            accepted = len(done) - refused
            assert accepted <= 1
            self._accepted[task.id] = self._accepted.get(task.id, 0) + accepted
        else:
            delay = 2_000_000 if end == "retry" else None
            self._engine.exchange(
                lease, [Raised(task, "E", "e", "t", delay, now_us, now_us)], want=0
            )
        self._held[lease.number].remove(task)

    @precondition(lambda self: self._sent)
    @rule(which=st.integers(0, 99), change=st.sampled_from(["revoke", "requeue"]))
    def control(self, which: int, change: str) -> None:
        task_id = str(which % self._sent)
        if change == "revoke":
            self._engine.control.revoke([task_id], reason="no")
        else:
            self._engine.control.requeue([task_id])

    @rule(paused=st.sampled_from([True, False, False]))
    def pause(self, paused: bool) -> None:
        self._paused = paused
        if paused:
            self._engine.control.pause("default")
        else:
            self._engine.control.resume("default")

    @rule(seconds=st.integers(1, 4))
    def let_time_pass(self, seconds: int) -> None:
        """Those who do not beat lose their leases, and do not know it."""
        for _ in range(seconds):
            self._clock.advance(us(RECOVERY_TICK_US))
            self._engine.recover()

    @precondition(lambda self: self._leases)
    @rule(which=st.integers(0, 1))
    def beat(self, which: int) -> None:
        lease = self._leases[which % len(self._leases)]
        if not self._engine.beat(lease) and not self._held[lease.number]:
            self._leases.remove(lease)

    @precondition(lambda self: self._leases)
    @rule()
    def leave(self) -> None:
        lease = self._leases.pop()
        self._engine.leave(lease)
        self._held[lease.number] = []

    @invariant()
    def nothing_is_lost(self) -> None:
        assert sum(self._engine.depth().values()) == self._sent

    @invariant()
    def nothing_is_finished_twice(self) -> None:
        assert all(count <= 1 for count in self._accepted.values())
        succeeded = sum(self._accepted.values())
        assert self._engine.depth()[TaskState.SUCCEEDED] == succeeded

    @invariant()
    def deaths_are_bounded(self) -> None:
        for number in range(self._sent):
            status = self._engine.status(str(number))
            assert status is not None
            assert status.deaths <= WORKER_DEATHS_MAX
            failed = status.attempts_before + status.failures + status.deaths
            assert len(self._engine.attempts(str(number))) == failed

    @invariant()
    def gates_hold_and_nobody_waits_for_nothing(self) -> None:
        rows = list(self._catalog.execute("SELECT state, lock_key, limit_key, gate FROM tasks"))
        for key, room in (("lock:x", 1), (LIMIT.key, 2)):
            at_gate = [row for row in rows if key in row[1:3]]
            running = sum(row[0] == "running" for row in at_gate)
            assert running <= room
            if any(row[3] == key for row in rows):
                assert running == room or any(row[0] == "queued" for row in at_gate)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=4),
    max_leaves=8,
)


@given(
    first=plain,
    rest=st.lists(plain, max_size=3),
    more=st.dictionaries(st.text("xyz", min_size=1, max_size=3), plain, max_size=3),
)
def test_plain_values_come_back_as_they_were_sent(
    first: object, rest: list[object], more: dict[str, object]
) -> None:
    def task(first: object, *rest: object, **more: object) -> None: ...

    arguments = Arguments(shape_of(task, task="t"))
    assert arguments.decode(arguments.encode((first, *rest), more)) == ([first, *rest], more)


@given(
    first_ms=st.integers(0, 10**6),
    factor=st.integers(1, 10**6),
    failures=st.integers(1, 10_000),
    seed=st.integers(),
)
def test_backoff_stays_within_its_bounds_and_never_shrinks(
    first_ms: int, factor: int, failures: int, seed: int
) -> None:
    backoff = Backoff.exponential(f"{first_ms}ms", longest=f"{first_ms * factor}ms")
    bound = backoff.bound_us(failures)
    assert 0 <= backoff.delay_us(failures, Random(seed)) <= bound <= backoff.longest_us
    assert bound <= backoff.bound_us(failures + 1)
    if failures > 1:
        assert bound == min(backoff.longest_us, 2 * backoff.bound_us(failures - 1))
