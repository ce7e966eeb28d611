"""millstream, as everybody gets it: results stored, late acknowledgement, retries on, a pool of processes.

``disk``: what is acknowledged survives a power loss. ``process``: a kill of every process.
Many are sent by ``enqueue_many``, a thousand in a commit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.harness import OWN
from benchmarks.programs import programs
from benchmarks.tasks.contract import KINDS, URL_VARIABLE, Amounts

DISK, PROCESS = "disk", "process"
OWN_PROCESS = f"{OWN} (process)"
_DURABILITY_VARIABLE = "BENCHMARK_DURABILITY"
_BATCH_TASKS = 1_000
# More than the others, because they are over sooner.
_AMOUNTS = Amounts(singles=20_000, bulk=100_000, round_trips=1_000)
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Millstream:
    """Our own tasks."""

    name: str
    durability: str
    amounts: Amounts = _AMOUNTS

    @contextmanager
    def serving(self, directory: Path) -> Iterator[None]:
        """Nothing to start; the store is made at its first use."""
        os.environ[URL_VARIABLE] = str(directory / "bench.mill")
        os.environ[_DURABILITY_VARIABLE] = self.durability
        yield

    def connect(self) -> MillstreamClient:
        """Return a client."""
        return MillstreamClient()

    def working(self, workers: int, log: Path) -> AbstractContextManager[list[int]]:
        """Run ``millstream worker`` with its default pool, of processes."""
        command = [sys.executable, "-m", "millstream", "worker", "-A", "benchmarks.tasks.shop:app"]
        return programs([[*command, "--concurrency", str(workers)]], log)


class MillstreamClient:
    """See ``TaskClient``."""

    def __init__(self) -> None:
        """Import the app: where its store is stands in the environment now."""
        shop = _shop()
        self.app = shop.app
        self._tasks = {"no_op": shop.no_op, "spin": shop.spin}

    def send(self, kind: str) -> Any:
        """Send one."""
        function, arguments = KINDS[kind]
        return self._tasks[function].delay(*arguments)

    def send_many(self, kind: str, count: int) -> None:
        """Send a thousand in a commit."""
        function, arguments = KINDS[kind]
        task = self._tasks[function]
        for begin in range(0, count, _BATCH_TASKS):
            task.enqueue_many(task.s(*arguments) for _ in range(min(_BATCH_TASKS, count - begin)))

    def wait(self, handle: Any) -> None:
        """Get the result."""
        handle.get(timeout=_TIMEOUT_S)

    def is_done(self, count: int) -> bool:
        """Ask whether nothing is queued or running; the results are stored by the same commits."""
        del count
        idle: bool = self.app.tasks_engine.is_idle(("default",))
        return idle

    def results(self) -> int:
        """Count those that have succeeded."""
        depth = self.app.tasks_engine.depth()
        succeeded: int = next(n for state, n in depth.items() if state.value == "succeeded")
        return succeeded

    def close(self) -> None:
        """Close the store."""
        self.app.close()


def _shop() -> ModuleType:
    # Not at the top: the other systems are measured without a library of ours in their process.
    from benchmarks.tasks import shop

    return shop
