"""A log in an empty store, with virtual time; its background work runs when a test calls for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.engines.local.log import LocalLog
from millstream.store import Store
from millstream.store.check import check
from millstream.testing.clock import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def log(store_path: Path, clock: VirtualClock) -> Iterator[LocalLog]:
    with Store.open(store_path, durability="process", clock=clock) as store:
        made = LocalLog(store)
        store.duty.stop()
        yield made
        made.close()
        assert not store.duty.errors, store.duty.errors
    assert check(store_path) == []
