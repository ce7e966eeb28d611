"""The four delays of tasks, gathered in memory and stored with a later commit.

    enqueue ──source_wait──> due ──start_wait──> start ──process──> end ──publish──> result is committed

``source_wait`` is the time that the sender asked for (ETA). ``publish`` is known only after the commit, so the figures
of an attempt are stored with one of the next commits, at most four times a second. A worker that is killed loses the
figures of its last quarter of a second, never a task.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from millstream.engines.local.delays import record_delays
from millstream.primitives.histogram import PHASES, Histogram
from millstream.store.transaction import Transaction
from millstream.tasks.message import Completion

KIND = "task"
STORE_EVERY_US = 250_000
ATTEMPTS_GATHERED_MAX = 8_192


class TaskDelays:
    """Delays of attempts that are committed, but not stored as figures yet. Thread-safe."""

    def __init__(self) -> None:
        """Start with none."""
        self._lock = threading.Lock()
        self._gathered: dict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
        self._attempts = 0
        self._stored_us = 0

    @property
    def are_due(self) -> bool:
        """Tell whether there is anything to store."""
        return self._attempts > 0

    def add(self, completions: Sequence[Completion], committed_us: int) -> None:
        """Take over attempts whose results were committed at ``committed_us``."""
        with self._lock:
            for one in completions:
                task = one.task
                asked_us = task.eta_us if task.eta_us is not None and task.attempt == 1 else None
                phases = (
                    0 if asked_us is None else max(0, asked_us - task.enqueued_us),
                    one.started_us - task.due_us,
                    one.ended_us - one.started_us,
                    committed_us - one.ended_us,
                )
                self._gathered[task.name].append(phases)
            self._attempts += len(completions)

    def store(self, tx: Transaction, *, now: bool = False) -> None:
        """Store what is gathered, if it is time to."""
        if not self._attempts:
            return
        waited = tx.now_us - self._stored_us
        if not (now or waited >= STORE_EVERY_US or self._attempts >= ATTEMPTS_GATHERED_MAX):
            return
        with self._lock:
            gathered, self._gathered = self._gathered, defaultdict(list)
            self._attempts = 0
            self._stored_us = tx.now_us
        for name, attempts in gathered.items():
            columns = np.array(attempts, dtype=np.int64).T
            phases = {}
            for phase, values in zip(PHASES, columns, strict=True):
                phases[phase] = Histogram()
                phases[phase].record_many(values)
            record_delays(tx, KIND, name, phases)
