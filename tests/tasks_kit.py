"""What the tests of tasks share: an app as a worker sees it, and the table as a guard."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from random import Random

import apsw

from millstream.engines.local.tasks import LocalTasks
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.store import Store
from millstream.store.catalog import connect
from millstream.tasks.registry import TaskRegistry
from millstream.tasks.states import TRANSITIONS


def us(microseconds: int) -> timedelta:
    """A duration for ``VirtualClock.advance``."""
    return timedelta(microseconds=microseconds)


class Bench:
    """A store, its engine, a registry, and workers that run in the calling thread."""

    def __init__(self, store: Store, *, seed: int = 0) -> None:
        self.store = store
        self.engine = LocalTasks(store)
        self.tasks = TaskRegistry(engine=lambda: self.engine)
        self.task = self.tasks.task
        self._seed = seed

    def worker(self, *queues: str, burst: bool = True, lease_us: int = 15_000_000) -> Worker:
        settings = WorkerSettings(queues=queues or ("default",), burst=burst, lease_us=lease_us)
        return Worker(self.engine, self.tasks, settings, chance=Random(self._seed))

    def drain(self, *queues: str) -> None:
        self.worker(*queues).run()


def guard_transitions(catalog: Path) -> None:
    """Make the catalog itself refuse a change of state that is not in the table."""
    rows = {(row.before, row.after) for row in TRANSITIONS}
    changes = " OR ".join(f"(OLD.state = '{a}' AND NEW.state = '{b}')" for a, b in rows if a)
    births = ", ".join(f"'{after}'" for before, after in rows if before is None)
    connection: apsw.Connection = connect(catalog, vfs=None)
    connection.execute(
        f"""
        CREATE TRIGGER guard_change BEFORE UPDATE OF state ON tasks WHEN NOT ({changes})
        BEGIN SELECT RAISE(ABORT, 'a change of state that the table does not have'); END;
        CREATE TRIGGER guard_birth BEFORE INSERT ON tasks WHEN NEW.state NOT IN ({births})
        BEGIN SELECT RAISE(ABORT, 'a first state that the table does not have'); END;
        """
    )
    connection.close()
