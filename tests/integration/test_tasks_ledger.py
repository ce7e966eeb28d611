"""The ledger: workers are killed at random while tasks run, and afterwards the books are balanced.

Each run of a task is a line in the ledger, written by the process that runs it. Afterwards every task has succeeded,
and a task that ran twice ran first in a process that was killed.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest

from millstream.tasks.states import TaskState
from tests.integration.tasks_processes import Site, site
from tests.integration.tasks_shop import square

TASKS = int(os.environ.get("MILLSTREAM_LEDGER_TASKS", "600"))
KILLS = int(os.environ.get("MILLSTREAM_LEDGER_KILLS", "10"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("durability", ["disk", "process"])
def test_the_books_balance(
    durability: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    print("seed", seed)  # noqa: T201 - it replays the run
    chance = Random(seed)
    with site(tmp_path, durability, monkeypatch) as shop:
        results = square.enqueue_many(square.s(n) for n in range(TASKS))
        ledger, killed = _run_and_kill(shop, chance)
        assert [one.get(0) for one in results] == [n * n for n in range(TASKS)]
        assert shop.engine.depth()[TaskState.SUCCEEDED] == TASKS
        assert shop.engine.refused() == 0
    runs: dict[str, list[int]] = defaultdict(list)
    for process, words in ledger:
        runs[words].append(process)
    assert set(runs) == {f"square {n}" for n in range(TASKS)}
    assert all(set(processes[:-1]) <= killed for processes in runs.values())


def _run_and_kill(shop: Site, chance: Random) -> tuple[list[tuple[int, str]], set[int]]:
    """Return every line of the ledger, and the processes that were killed."""
    ledger: list[tuple[int, str]] = []
    killed: set[int] = set()
    with shop.worker("--concurrency", "2", "--burst") as workers:
        for _ in range(KILLS):
            for _ in range(chance.randrange(1, TASKS // KILLS // 2)):
                ledger.append(shop.listen())
            process = ledger[-1][0]
            if process not in killed:
                killed.add(process)
                os.kill(process, signal.SIGKILL)
        _, errors = workers.communicate()
        assert workers.returncode == 0, errors.decode()
    return ledger + shop.listen_to_all(), killed
