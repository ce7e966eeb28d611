"""The embedded engine passes the suite of flows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.testing.flows_suite import FlowsSuite, LocalWorld


class TestLocalFlows(FlowsSuite):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[LocalWorld]:
        with LocalWorld(tmp_path / "s.mill") as world:
            yield world
