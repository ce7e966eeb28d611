"""What keeps the limits, alone: interrupts hit the task and nothing else; the supervisor's watch ends who is over."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from millstream.engines.local.worker_dependencies import WorkerDependencies
from millstream.engines.local.worker_execute import Executor
from millstream.engines.local.worker_kind import PoolKind
from millstream.engines.local.worker_limits import LimitKeeper, limit_keeper
from millstream.engines.local.worker_soft import under_soft_limit
from millstream.engines.local.worker_watch import ProcessWatch
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.errors import SoftTimeLimitExceeded
from millstream.store import Store
from millstream.store.runmark import Bound, RunMark, RunMarks
from millstream.tasks.attempt_limits import UNLIMITED, Overrun
from millstream.tasks.limits import RECOVERY_TICK_US
from millstream.tasks.message import Claimed, Completion, Raised, Succeeded
from millstream.testing.clock import VirtualClock
from tests.tasks_kit import Bench, us

ATTEMPTS = 400
PATIENCE_S = 60.0


@pytest.fixture
def bench(store_path: Path) -> Iterator[Bench]:
    with Store.open(store_path, durability="process") as store:
        yield Bench(store)


def claimed(name: str, seq: int) -> Claimed:
    return Claimed(seq, str(seq), name, b"\x80", 1, 0, 0, 0, None, soft_time_limit_us=1_000)


def executor(bench: Bench, limits: LimitKeeper) -> Executor:
    link = None
    return Executor(
        bench.tasks,
        clock=SYSTEM_CLOCK,
        chance=Random(0),
        run_coroutine=asyncio.run,
        link=link,  # type: ignore[arg-type]
        limits=limits,
        dependencies=WorkerDependencies(has_loop=True),
    )


def spinning_task(bench: Bench, seed: int) -> None:
    """Declare a task that ends at about the moment at which its limit is over: before, at, or after it."""
    chance = Random(seed)

    @bench.task(name="spin")
    def spin() -> None:
        end_s = SYSTEM_CLOCK.monotonic_s() + chance.uniform(0.0005, 0.0015)
        while SYSTEM_CLOCK.monotonic_s() < end_s:
            pass


@pytest.mark.parametrize("kind", [PoolKind.PROCESS, PoolKind.THREAD])
def test_an_interrupt_never_hits_anything_but_its_attempt(
    bench: Bench, seed: int, kind: PoolKind
) -> None:
    """By a signal in the main thread, and by an exception set in another: each attempt ends in one completion."""
    spinning_task(bench, seed)
    before = signal.getsignal(signal.SIGUSR1)
    keeper = limit_keeper(bench.tasks, SYSTEM_CLOCK, Random(seed), kind, UNLIMITED)
    keeper.install()
    runs = executor(bench, keeper)
    ends: list[Completion] = []

    def work() -> None:
        for seq in range(1, ATTEMPTS + 1):
            ends.extend(runs.run((claimed("spin", seq),)))

    try:
        if kind is PoolKind.PROCESS:
            work()
        else:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(PATIENCE_S)
    finally:
        keeper.stop()
        signal.signal(signal.SIGUSR1, before)
    assert [end.task.seq for end in ends] == list(range(1, ATTEMPTS + 1))
    kinds = {type(end) for end in ends}
    assert kinds == {Succeeded, Raised}, (
        "the limit should be over before some ends, and after others"
    )
    errors = {end.error_type for end in ends if isinstance(end, Raised)}
    assert errors == {"millstream.primitives.errors.SoftTimeLimitExceeded"}


def test_a_coroutine_sees_its_limit_once_and_may_go_on() -> None:
    async def stubborn() -> list[str]:
        seen = []
        for _ in range(2):
            try:
                async with asyncio.timeout(0.3 if seen else PATIENCE_S):
                    await asyncio.Event().wait()
            except (SoftTimeLimitExceeded, TimeoutError) as error:
                seen.append(type(error).__name__)
        return seen

    assert asyncio.run(under_soft_limit(stubborn(), 1_000)) == [
        "SoftTimeLimitExceeded",
        "TimeoutError",
    ]


def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def cancelled() -> str:
        waits = asyncio.ensure_future(under_soft_limit(asyncio.sleep(PATIENCE_S), 10**9))
        asyncio.get_running_loop().call_soon(waits.cancel)
        try:
            await waits
        except asyncio.CancelledError:
            return "cancelled"
        return "not"

    assert asyncio.run(cancelled()) == "cancelled"


def test_a_coroutine_that_ends_in_time_is_left_alone() -> None:
    async def quick() -> int:
        await asyncio.sleep(0)
        return 7

    assert asyncio.run(under_soft_limit(quick(), 10**9)) == 7


class Watched:
    """A process that does nothing, its mark, and a watch that looks when it is told to."""

    def __init__(self, folder: Path, *, lease_us: int = 15_000_000) -> None:
        self.clock = VirtualClock()
        self.marks = RunMarks(folder)
        self.mark: RunMark = self.marks.make(1, lease_us)
        self.said: list[str] = []
        self.memory_bytes = 0
        self.watch = ProcessWatch(self.clock, self.said.append, lambda _pid: self.memory_bytes)
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        )
        self.watch.attach(1, self.process, self.mark.path)
        self.watch.stop()  # The thread; the test looks itself.

    def ended(self) -> int:
        """Return how it ended; it is killed, or ends by itself when its pipe does."""
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdin is not None
        self.process.stdin.close()
        return code

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.ended()

    def now_us(self) -> int:
        return int(self.clock.monotonic_s() * 1_000_000)


def bound(*, deadline_us: int = 0, memory_bytes: int = 0) -> Bound:
    return Bound(
        deadline_us=deadline_us,
        memory_bytes=memory_bytes,
        hard_us=2_000_000,
        started_us=5,
        after_time_us=7,
        after_memory_us=None,
    )


def test_the_watch_kills_who_is_over_its_time_and_says_for_whom(tmp_path: Path) -> None:
    here = Watched(tmp_path)
    here.mark.bind(bound(deadline_us=here.now_us() + 1_000))
    here.mark.begin(42)
    here.watch.look()
    assert here.process.poll() is None
    here.clock.advance(us(1_000))
    here.watch.look()
    assert here.ended() == -signal.SIGKILL
    assert here.said == [
        "worker 1 is killed: its task ran for longer than 2 s, its hard time limit"
    ]
    last = here.marks.last_run(1)
    assert last.condemned is not None
    assert (last.seq, last.condemned.cause) == (42, Overrun.TIME)
    assert last.condemned.bound.after_time_us == 7
    assert here.watch.detach(here.process)


def test_the_watch_kills_who_takes_too_much(tmp_path: Path) -> None:
    here = Watched(tmp_path)
    here.mark.bind(bound(memory_bytes=1_000))
    here.mark.begin(42)
    here.memory_bytes = 1_000
    here.watch.look()
    assert here.process.poll() is None
    here.memory_bytes = 1_001
    here.watch.look()
    assert here.ended() == -signal.SIGKILL
    condemned = here.marks.last_run(1).condemned
    assert condemned is not None
    assert (condemned.cause, condemned.seen_bytes) == (Overrun.MEMORY, 1_001)
    assert condemned.bound.after_memory_us is None


def test_the_watch_leaves_alone_who_has_ended_its_attempt_or_has_no_limit(tmp_path: Path) -> None:
    here = Watched(tmp_path)
    here.mark.bind(bound(deadline_us=1, memory_bytes=1))
    here.memory_bytes = 10**12
    here.watch.look()  # Nothing has begun.
    here.mark.begin(42)
    here.mark.unbind()
    here.watch.look()  # No limit any more.
    assert not here.mark.condemn(41, Overrun.TIME, 0)  # Another one runs by now.
    assert here.end() == 0
    assert (here.said, here.watch.detach(here.process)) == ([], False)
    assert here.marks.last_run(1).seq == 42


def test_what_began_between_the_verdict_and_the_kill_is_not_charged(tmp_path: Path) -> None:
    here = Watched(tmp_path)
    here.mark.bind(bound(deadline_us=1))
    here.mark.begin(42)
    assert here.mark.condemn(42, Overrun.TIME, 0)
    here.mark.end()
    here.mark.begin(43)
    assert here.marks.last_run(1).seq == 42
    here.end()


def test_the_watch_kills_who_shows_no_sign_of_life_for_a_lease(tmp_path: Path) -> None:
    here = Watched(tmp_path, lease_us=3 * RECOVERY_TICK_US)
    for _ in range(6):
        here.mark.beat()
        here.clock.advance(us(RECOVERY_TICK_US))
        here.watch.look()
    assert here.process.poll() is None
    for _ in range(4):
        here.clock.advance(us(RECOVERY_TICK_US))
        here.watch.look()
    assert here.ended() == -signal.SIGKILL
    assert here.said == ["worker 1 is killed: no sign of life for 3 s, its lease"]


def test_who_ends_in_order_needs_no_sign_of_life(tmp_path: Path) -> None:
    here = Watched(tmp_path, lease_us=RECOVERY_TICK_US)
    here.mark.retire()
    for _ in range(5):
        here.clock.advance(us(RECOVERY_TICK_US))
        here.watch.look()
    assert here.end() == 0


def test_time_in_which_the_watch_itself_was_stopped_kills_nobody(tmp_path: Path) -> None:
    here = Watched(tmp_path, lease_us=10 * RECOVERY_TICK_US)
    for _ in range(3):
        here.clock.advance(us(3_600_000_000))
        here.watch.look()
    assert here.end() == 0


def test_a_mark_that_is_gone_is_not_watched(tmp_path: Path) -> None:
    watch = ProcessWatch(SYSTEM_CLOCK, print)
    process = subprocess.Popen([sys.executable, "-c", ""])
    watch.attach(1, process, tmp_path / "running" / "9")
    assert not watch.detach(process)
    watch.stop()
    assert process.wait(PATIENCE_S) == 0


def test_the_memory_of_a_process_is_read(tmp_path: Path) -> None:
    from millstream.engines.local.process_memory import process_memory_bytes

    before = process_memory_bytes(os.getpid())
    hoard = b"x" * 100_000_000
    assert process_memory_bytes(os.getpid()) >= before + len(hoard) * 9 // 10
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(PATIENCE_S)
    assert process_memory_bytes(ended.pid) == 0


TRACED = """
import sys, threading
from millstream.engines.local.worker_limits import take_back

def called():
    return "called"

take_back(threading.get_ident())
sys.settrace(lambda *_: None)
print(called())
"""


def test_what_was_taken_back_leaves_nothing_behind() -> None:
    # CPython 3.11 never comes into a call that is traced while it looks for an error that was taken back.
    command = [sys.executable, "-c", TRACED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "called\n"), done.stderr
