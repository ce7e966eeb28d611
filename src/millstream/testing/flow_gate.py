"""A stream that goes one look at a time: a thread of its own runs it, and a gate holds it before each look.

    test      step() ┐              ┌ goes on ……… step() ┐            ┌
                     ▼              │                    ▼            │
    stream    is_set() ─ one look ─ is_set() blocks …… is_set() ─ …… is_set()

The gate is what a stream asks whether it should stop, so it runs exactly as it would elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from millstream.flows.contract import Stop


class SteppedStream:
    """One stream from its start to its stop. One thread steps it."""

    def __init__(self, stream: Callable[[Stop], object]) -> None:
        """Start ``stream`` in a thread, and return when it is about to look for the first time, or was refused.

        Raises what the stream raises.
        """
        self._turns = threading.Condition()
        self._may_look = False
        self._waits = False
        self._stopping = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(stream,), name="millstream-flow-test", daemon=True
        )
        self._thread.start()
        self._await_turn()

    def step(self) -> None:
        """Let the stream look once for something to do. Raises what it raises; it has ended then."""
        with self._turns:
            self._may_look, self._waits = True, False
            self._turns.notify_all()
        self._await_turn()

    def stop(self) -> None:
        """End the stream where it stands; nothing is closed."""
        with self._turns:
            self._stopping = True
            self._turns.notify_all()
        self._thread.join()

    def is_set(self) -> bool:
        """Hold the stream until the test lets it look, or stops it; asked by the stream."""
        with self._turns:
            self._waits = True
            self._turns.notify_all()
            self._turns.wait_for(lambda: self._may_look or self._stopping)
            self._may_look = False
            return self._stopping

    def _await_turn(self) -> None:
        with self._turns:
            self._turns.wait_for(lambda: self._waits)
            error, self._error = self._error, None
        if error is not None:
            self._thread.join()
            raise error

    def _run(self, stream: Callable[[Stop], object]) -> None:
        error: BaseException | None = None
        try:
            stream(self)
        except BaseException as raised:  # noqa: BLE001 - it is raised in the thread of the test
            error = raised
        with self._turns:
            self._error = error
            self._waits = True
            self._turns.notify_all()
