"""Background work that one process does for all: whoever holds the duty.

Every process that opens a store has one quiet thread. The first to take ``run/duty.lock`` holds the duty; when it
dies the kernel frees the lock and another takes over at its next look. A chore is a function that does a little and
returns whether there is more to do. Chores run without any lock that an append needs, except for their own short
commits.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from millstream.primitives.errors import MillstreamError, StoreClosed
from millstream.store.locks import FileLock
from millstream.store.signals import DUTY, Waiter

if TYPE_CHECKING:
    from millstream.store.store import Store

Chore = Callable[[], bool]
_LOOK_EVERY_S = 1.0
_SLACK_S = 0.002
"""A sleep ends up to a millisecond early; without this the rest of it would be spent awake."""


class Duty:
    """The thread of one process. ``start`` is called once chores are known."""

    def __init__(self, store: Store) -> None:
        """Nothing runs before ``start``."""
        self._store = store
        self._chores: list[tuple[str, Chore]] = []
        self._urgent: set[str] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiter: Waiter | None = None
        self._lock = threading.Lock()
        self.errors: list[str] = []

    def add(self, name: str, chore: Chore, *, urgent: bool = False) -> None:
        """Add a chore, and start the thread if it does not run yet. An urgent one also runs at every wake-up."""
        with self._lock:
            self._chores.append((name, chore))
            if urgent:
                self._urgent.add(name)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="millstream-duty", daemon=True
                )
                self._thread.start()

    def run_once(self) -> bool:
        """Run each chore once in this thread, whoever holds the duty; return whether there is more to do."""
        return any([self._attempt(name, chore) for name, chore in list(self._chores)])

    def _run(self) -> None:
        lock = FileLock(self._store.directory.run / "duty.lock")
        try:
            while not lock.try_acquire():
                if self._stopping.wait(_LOOK_EVERY_S):
                    return
            self._hold()
        finally:
            lock.close()

    def _hold(self) -> None:
        """Do all chores every second, and the urgent ones whenever somebody asks for them."""
        try:
            waiter = self._store.waiter(DUTY)
        except StoreClosed:  # before there was anything to do
            return
        with waiter as self._waiter:
            clock = self._store.clock
            due_s = clock.monotonic_s() + _LOOK_EVERY_S
            while not self._stopping.is_set():
                now_s = clock.monotonic_s()
                if now_s >= due_s - _SLACK_S:
                    while not self._stopping.is_set() and self.run_once():
                        continue
                    due_s = clock.monotonic_s() + _LOOK_EVERY_S
                    continue
                self._waiter.arm()
                if (
                    self._stopping.is_set()
                ):  # `stop` may have come before there was a waiter to interrupt
                    break
                if self._waiter.wait(due_s - now_s):
                    self._run_urgent()

    def _run_urgent(self) -> None:
        for name, chore in list(self._chores):
            if name in self._urgent and not self._stopping.is_set():
                self._attempt(name, chore)

    def _attempt(self, name: str, chore: Chore) -> bool:
        try:
            return chore()
        except MillstreamError as error:
            # The next look tries again; appends report their own errors, and `errors` shows this one.
            self.errors = [*self.errors[-9:], f"{name}: {error}"]
            return False
        except Exception:  # noqa: BLE001 - a chore that fails must not end the others
            if self._stopping.is_set():
                return False
            self.errors = [*self.errors[-9:], f"{name}: {traceback.format_exc()}"]
            return False

    def stop(self) -> None:
        """Let the running chore finish, then end the thread."""
        self._stopping.set()
        waiter = self._waiter
        if waiter is not None:
            waiter.interrupt()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
