"""Fixtures for pytest, for tests of code that uses millstream.

Put ``pytest_plugins = ["millstream.testing.plugin"]`` into ``conftest.py``. Every fixture has a
directory of its own, closes what it opened, and fails the test if background work of its store
failed meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from millstream.app import App
from millstream.engines.local.log import LocalLog
from millstream.flows.flow import Flow
from millstream.primitives.duration import Duration
from millstream.store import Store
from millstream.testing.clock import VirtualClock
from millstream.testing.faulty import FaultyDisk
from millstream.testing.flows import FlowTest
from millstream.testing.tasks import Mode, TaskTest


@pytest.fixture
def millstream_path(tmp_path: Path) -> Path:
    """Where the store of this test lies; nothing is there yet."""
    return tmp_path / "test.mill"


@pytest.fixture
def millstream_clock() -> VirtualClock:
    """Time that passes only by ``advance``."""
    return VirtualClock()


@pytest.fixture
def millstream_disk() -> FaultyDisk:
    """A disk that fails where the test says so."""
    return FaultyDisk()


@pytest.fixture
def millstream_app(millstream_path: Path, millstream_clock: VirtualClock) -> Iterator[App]:
    """An app in an empty store, with virtual time. ``process`` durability: nobody cuts the power of a test."""
    with App("test", store=millstream_path, durability="process", clock=millstream_clock) as app:
        yield app


@pytest.fixture
def millstream_store(millstream_path: Path, millstream_clock: VirtualClock) -> Iterator[Store]:
    """An empty store with virtual time."""
    with Store.open(millstream_path, durability="process", clock=millstream_clock) as store:
        yield store
        assert not store.duty.errors, store.duty.errors


@pytest.fixture
def millstream_log(millstream_store: Store) -> Iterator[LocalLog]:
    """The log of ``millstream_store``. Its background work runs only when the test calls for it."""
    log = LocalLog(millstream_store)
    millstream_store.duty.stop()
    yield log
    log.close()


@pytest.fixture
def millstream_tasks(tmp_path: Path) -> Iterator[Callable[..., TaskTest]]:
    """A function that takes over the tasks of an app: ``tasks = millstream_tasks(app, mode="inline")``."""
    with ExitStack() as stack:

        def take_over(app: App, *, mode: Mode = "manual", seed: int = 0) -> TaskTest:
            return stack.enter_context(TaskTest(app, tmp_path, mode=mode, seed=seed))

        yield take_over


@pytest.fixture
def millstream_flows(tmp_path: Path) -> Iterator[Callable[..., FlowTest]]:
    """A function that streams a flow step by step: ``flow = millstream_flows(revenue, idle="1m")``."""
    folders = (tmp_path / f"flow-{number}" for number in itertools.count())
    with ExitStack() as stack:

        def stream(
            flow: Flow | Callable[[App], Flow],
            *,
            idle: Duration | None = None,
            partitions: int = 1,
        ) -> FlowTest:
            folder = next(folders)
            folder.mkdir()
            return stack.enter_context(FlowTest(flow, folder, idle=idle, partitions=partitions))

        yield stream
