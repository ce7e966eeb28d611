"""Keeps the limits of the attempts that run in this process: who is interrupted, when, and how.

    open ──> the function runs ──> close          the thread of the attempt
      │  soft limit: SoftTimeLimitExceeded, once       from the keeper's thread
      └─ hard limit: ``on_overrun``                    from the keeper's thread; the process ends

How the soft limit reaches the task depends on what runs it:

    main thread      SIGUSR1, which also wakes a function that sleeps or waits for I/O
    other threads    an exception that Python raises at the next bytecode; what waits in C is not woken
    coroutine        raised at the ``await`` where it waits, see ``worker_soft.py``

The hard limit of this thread is the polite one: it commits what is finished and ends the process with the traceback
of the task. It needs the interpreter's lock. For code that never gives it back the same deadline, a second later, is in
the mark of the process, where the supervisor reads it (``worker_watch.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType

from millstream.engines.local.process_memory import refuse_unreadable_memory
from millstream.engines.local.worker_kind import PoolKind
from millstream.primitives.backoff import Chance
from millstream.primitives.clock import Clock
from millstream.primitives.errors import ConfigurationError, MillstreamError, SoftTimeLimitExceeded
from millstream.store.runmark import Bound, RunMark
from millstream.tasks.attempt_limits import UNLIMITED, AttemptLimits, memory_over, time_over
from millstream.tasks.limits import BEATS_PER_LEASE, LIMIT_GRACE_US, TRACEBACK_TEXT_MAX
from millstream.tasks.message import Claimed, Work
from millstream.tasks.registry import TaskRegistry
from millstream.tasks.retry import DEFAULT_POLICY, TryAgain, after_failure

_MICROSECONDS = 1_000_000
_NEVER_S = float("inf")
_SOFT_SIGNAL = getattr(signal, "SIGUSR1", None)


@dataclass(slots=True, eq=False)
class Guard:
    """One attempt under limits. ``is_open`` while its function runs."""

    work: Work
    limits: AttemptLimits
    thread: int
    started_us: int
    soft_at_s: float | None
    hard_at_s: float | None
    is_open: bool = True
    was_told: bool = False
    """The soft limit was over, and the task is interrupted."""
    by_signal: bool = False


@dataclass(frozen=True, slots=True)
class Overtime:
    """An attempt whose hard limit is over: how it ends, and where it is."""

    work: Work
    error: str
    traceback: str
    retry_delays_us: tuple[int | None, ...]
    """What follows, for each task of the work."""
    started_us: int


OnOverrun = Callable[[Overtime], None]


@dataclass(slots=True)
class LimitKeeper:
    """The limits of one worker, kept by a thread; the same thread shows signs of life in its mark."""

    registry: TaskRegistry
    clock: Clock
    chance: Chance
    defaults: AttemptLimits = UNLIMITED
    """Limits of tasks that name none."""
    can_end: bool = False
    """Whether it runs one task at a time and a supervisor watches it: only then may the process be ended for a task."""
    can_signal: bool = False
    """Whether attempts run in the main thread; ``install`` is called there."""
    pool: str = "process"
    on_mark: Callable[[Path], None] | None = None
    """Is told where the mark is; None when no supervisor watches this process."""
    on_overrun: OnOverrun | None = None
    mark: RunMark | None = None
    _known: dict[str, AttemptLimits | None] = field(default_factory=dict)
    _guards: list[Guard] = field(default_factory=list)
    _main: Guard | None = None
    # An interrupt may come at any bytecode of the thread of an attempt. ``with`` takes a plain lock, and gives it back,
    # between two bytecodes, and a SimpleQueue is filled within one; a Condition or an Event would be left locked.
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _wakeups: SimpleQueue[None] = field(default_factory=SimpleQueue)
    _thread: threading.Thread | None = None
    _wakes_s: float = _NEVER_S
    _pulse_s: float = _NEVER_S
    _beats_s: float = _NEVER_S
    _stopped: bool = False

    def install(self) -> None:
        """Take the signal of the soft limit. Main thread."""
        if self.can_signal and _SOFT_SIGNAL is not None:
            signal.signal(_SOFT_SIGNAL, self._on_signal)

    def keep_for(self, mark: RunMark, on_overrun: OnOverrun | None, lease_us: int) -> None:
        """Keep limits under another lease from now on, and show signs of life in its mark.

        They say that this process runs Python code, and no more: the store may be blocked meanwhile. ``on_overrun``
        ends the process.
        """
        self.mark, self.on_overrun = mark, on_overrun
        self._pulse_s = lease_us / BEATS_PER_LEASE / _MICROSECONDS
        self._beats_s = 0.0
        self._start()
        if self.can_end and self.expects_ends:
            mark.expect_limits()
        if self.on_mark is not None:
            self.on_mark(mark.path)

    @property
    def expects_ends(self) -> bool:
        """Tell whether any declared task may have to be ended from outside."""
        declared = (self.registry.get(name).options.limits for name in self.registry.names())
        return self.defaults.needs_end or any(limits.needs_end for limits in declared)

    def limits_of(self, work: Work) -> AttemptLimits | None:
        """Return the limits of an attempt; None for none. Raises ConfigurationError if this pool cannot keep them.

        A batch has the shortest limits that any of its calls names.
        """
        name = work[0].name
        try:
            limits = self._known[name]
        except KeyError:
            limits = self._known[name] = self._declared(name)
        for claimed in work:
            if claimed.soft_time_limit_us is not None or claimed.time_limit_us is not None:
                limits = _named(work).before(UNLIMITED if limits is None else limits)
                break
        if limits is not None and limits.needs_end and not self.can_end:
            raise unfit(name, self.pool)
        return limits

    def _declared(self, name: str) -> AttemptLimits | None:
        task = self.registry.find(name)
        limits = (UNLIMITED if task is None else task.options.limits).before(self.defaults)
        return None if limits == UNLIMITED else limits

    def guard(self, work: Work, limits: AttemptLimits, *, is_coroutine: bool) -> Guard:
        """Return what keeps the limits of an attempt that begins now in the calling thread, once it is opened.

        A coroutine keeps its soft limit itself.
        """
        now_s = self.clock.monotonic_s()
        soft_us = None if is_coroutine else limits.soft_us
        return Guard(
            work,
            limits,
            threading.get_ident(),
            self.clock.now_us(),
            None if soft_us is None else now_s + soft_us / _MICROSECONDS,
            None if limits.hard_us is None else now_s + limits.hard_us / _MICROSECONDS,
            by_signal=self.can_signal and _SOFT_SIGNAL is not None,
        )

    def open(self, guard: Guard) -> None:
        """Begin to keep them. From now on until ``close`` SoftTimeLimitExceeded may be raised at any bytecode."""
        if guard.limits.needs_end and self.mark is not None:
            self.mark.bind(self._bound(guard))
        wakes = [at_s for at_s in (guard.soft_at_s, guard.hard_at_s) if at_s is not None]
        if not wakes:
            return
        self._start()
        if guard.by_signal:
            self._main = guard
        with self._lock:
            self._guards.append(guard)
            must_wake = min(wakes) < self._wakes_s
        if must_wake:
            self._wakeups.put(None)

    def close(self, guard: Guard) -> None:
        """End it. When this returns, nothing interrupts the thread any more; SoftTimeLimitExceeded may come until then.

        Call it again after that: it is raised once at most.
        """
        guard.is_open = False
        with self._lock:
            if guard in self._guards:
                self._guards.remove(guard)
        if guard.was_told and not guard.by_signal:
            # What was not raised yet would be raised in our own code.
            take_back(guard.thread)
        self._main = None
        if guard.limits.needs_end and self.mark is not None:
            self.mark.unbind()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped = True
        self._wakeups.put(None)
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._keep, name="millstream-limits", daemon=True
                )
                self._thread.start()

    def _keep(self) -> None:
        while not self._stopped:
            now_s = self.clock.monotonic_s()
            if self.mark is not None and now_s >= self._beats_s:
                self.mark.beat()
                self._beats_s = now_s + self._pulse_s
            with self._lock:
                overdue = self._look(now_s)
                self._wakes_s = wakes_s = self._next_s()
            if overdue is not None and self.on_overrun is not None:
                # What the store refuses now is left to the supervisor, which kills the process in a second.
                with contextlib.suppress(MillstreamError):
                    self.on_overrun(self._overtime(overdue))
            wakes_s = min(wakes_s, self._beats_s)
            with contextlib.suppress(Empty):
                self._wakeups.get(
                    timeout=None if wakes_s == _NEVER_S else max(0.0, wakes_s - now_s)
                )

    def _look(self, now_s: float) -> Guard | None:
        """Interrupt who is over the soft limit; return who is over the hard one."""
        overdue: Guard | None = None
        for guard in self._guards:
            if guard.soft_at_s is not None and guard.soft_at_s <= now_s:
                guard.soft_at_s = None
                guard.was_told = True
                _interrupt(guard)
            if guard.hard_at_s is not None and guard.hard_at_s <= now_s:
                guard.hard_at_s = None
                overdue = guard
        return overdue

    def _next_s(self) -> float:
        return min(
            (
                at_s
                for guard in self._guards
                for at_s in (guard.soft_at_s, guard.hard_at_s)
                if at_s is not None
            ),
            default=_NEVER_S,
        )

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Runs in the main thread, between two bytecodes: takes no lock, since the thread may hold it.
        guard = self._main
        if guard is not None and guard.is_open and guard.was_told:
            guard.is_open = False
            raise SoftTimeLimitExceeded

    def _bound(self, guard: Guard) -> Bound:
        limits, hard_us = guard.limits, guard.limits.hard_us or 0
        deadline_us = 0
        if guard.hard_at_s is not None:
            deadline_us = int(guard.hard_at_s * _MICROSECONDS) + LIMIT_GRACE_US
        memory_bytes = limits.memory_bytes or 0
        # One word for all of a batch: that of the task that has failed least, so that none loses a retry.
        least = min(guard.work, key=lambda claimed: claimed.failures)
        return Bound(
            deadline_us=deadline_us,
            memory_bytes=memory_bytes,
            hard_us=hard_us,
            started_us=guard.started_us,
            after_time_us=self._delay_us(least, time_over(hard_us)),
            after_memory_us=self._delay_us(least, memory_over(memory_bytes, 0)),
        )

    def _delay_us(self, claimed: Claimed, error: BaseException) -> int | None:
        task = self.registry.find(claimed.name)
        policy = DEFAULT_POLICY if task is None else task.options.policy
        failures = claimed.failures + 1
        verdict = after_failure(policy, failures=failures, error=error, chance=self.chance)
        return verdict.delay_us if isinstance(verdict, TryAgain) else None

    def _overtime(self, guard: Guard) -> Overtime:
        error = time_over(guard.limits.hard_us or 0)
        frame = sys._current_frames().get(guard.thread)
        stack = "" if frame is None else "".join(traceback.format_stack(frame))
        text = (
            f"Where the task was (most recent call last):\n{stack}{type(error).__name__}: {error}\n"
        )
        delays_us = tuple(self._delay_us(claimed, error) for claimed in guard.work)
        return Overtime(
            guard.work, str(error), text[-TRACEBACK_TEXT_MAX:], delays_us, guard.started_us
        )


def limit_keeper(
    registry: TaskRegistry, clock: Clock, chance: Chance, kind: PoolKind, defaults: AttemptLimits
) -> LimitKeeper:
    """Return what keeps the limits in a worker process of that pool."""
    return LimitKeeper(
        registry,
        clock,
        chance,
        defaults,
        can_end=kind is PoolKind.PROCESS,
        can_signal=kind in {PoolKind.PROCESS, PoolKind.SOLO},
        pool=kind.value,
    )


def refuse_unfit_tasks(registry: TaskRegistry, kind: PoolKind, queues: Sequence[str]) -> None:
    """Raise ConfigurationError when a declared task of these queues has a limit that this pool cannot keep."""
    for name in registry.names():
        options = registry.get(name).options
        if options.queue not in queues:
            continue
        if options.limits.needs_end and kind is not PoolKind.PROCESS:
            raise unfit(name, kind.value)
        if options.limits.memory_bytes is not None:
            refuse_unreadable_memory(f"task {name!r}")


def unfit(task: str, pool: str) -> ConfigurationError:
    """Return the error for a hard or memory limit in a pool that cannot keep it."""
    return ConfigurationError(
        f"a worker with --pool {pool} cannot keep a hard time limit or a memory limit",
        where=f"task {task!r}" if task else "",
        expected="--pool process, whose processes can be ended from outside",
        next_step="run its queue with --pool process, or use a soft_time_limit",
    )


def _named(work: Work) -> AttemptLimits:
    soft = [one.soft_time_limit_us for one in work if one.soft_time_limit_us is not None]
    hard = [one.time_limit_us for one in work if one.time_limit_us is not None]
    return AttemptLimits(soft_us=min(soft, default=None), hard_us=min(hard, default=None))


def _interrupt(guard: Guard) -> None:
    if guard.by_signal and _SOFT_SIGNAL is not None:
        # A real signal, not only a pending call: it also wakes the thread from a system call.
        signal.pthread_kill(guard.thread, _SOFT_SIGNAL)
    else:
        _raise_in(guard.thread, SoftTimeLimitExceeded)


def take_back(thread: int) -> None:
    """Take back an error that was not raised yet in a thread.

    CPython looks for such an error at every call until one has been raised somewhere: calls take half as long again
    (3.12), and under a debugger or a measurement of coverage a call never begins (3.11). So one is raised here.
    """
    _raise_in(thread, None)
    try:
        _raise_in(threading.get_ident(), _TakenBackError)
        while True:
            pass
    except _TakenBackError:
        pass


class _TakenBackError(BaseException):
    """Is raised once and caught."""


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an error in another thread at its next bytecode; with None none that was to be raised."""
    raised = ctypes.py_object() if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
