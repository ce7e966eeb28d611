"""The tasks of the local engine pass the suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.engines.local.tasks import LocalTasks
from millstream.store import Store
from millstream.testing.clock import VirtualClock
from millstream.testing.events_suite import TaskEventsSuite
from millstream.testing.task_batches_suite import TaskBatchesSuite
from millstream.testing.task_control_suite import (
    TaskControlSuite,
    TaskExpirySuite,
    TaskGatesSuite,
)
from millstream.testing.tasks_suite import TaskDeliverySuite, TaskEngineSuite
from millstream.testing.workers_suite import WorkerControlSuite
from tests.tasks_kit import guard_transitions, us


class Harness:
    def __init__(self, store: Store, clock: VirtualClock) -> None:
        self.engine = LocalTasks(store)
        self._clock = clock

    def advance(self, microseconds: int) -> None:
        self._clock.advance(us(microseconds))


class TestLocal(
    TaskEngineSuite,
    TaskDeliverySuite,
    TaskExpirySuite,
    TaskControlSuite,
    TaskGatesSuite,
    TaskBatchesSuite,
    WorkerControlSuite,
    TaskEventsSuite,
):
    @pytest.fixture(params=["disk", "process"])
    def harness(self, request: pytest.FixtureRequest, store_path: Path) -> Iterator[Harness]:
        clock = VirtualClock()
        with Store.open(store_path, durability=request.param, clock=clock) as store:
            guard_transitions(store.directory.catalog)
            yield Harness(store, clock)
