"""A power loss may take large appends of durability ``process``: they are refused, and all the rest can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.engines.local.log import LocalLog
from millstream.primitives.errors import StoreCorrupt
from millstream.store import Store
from millstream.store.check import check
from millstream.testing.crash import KillAt, Report, run
from tests.log_kit import make, numbers

LARGE = "a" * 5_000


def append_both(report: Report, path: Path) -> None:
    """Append large events to one topic and small ones to another, and go on until killed."""
    store = Store.open(path, durability="process")
    log = LocalLog(store)
    store.duty.stop()
    small, large = make(log, "small"), make(log, "large", schema={"n": int, "text": str})
    for n in range(5):
        log.append(small, {"n": n})
        log.append(large, {"n": n, "text": LARGE})
    store.checkpoint()
    log.append(small, {"n": 5})


@pytest.mark.parametrize("how", ["gone", "short"])
def test_a_segment_that_was_lost_refuses_its_events_and_no_others(tmp_path: Path, how: str):
    path = tmp_path / "store.mill"
    outcome = run(append_both, path, kill_at=KillAt("append.staged", 11))
    assert outcome.killed, outcome.error
    (segment,) = path.glob("segments/*/*.frames")
    if how == "gone":
        segment.unlink()
    else:
        segment.write_bytes(segment.read_bytes()[:6_000])
    for _ in range(2):  # the first to open seals what the dead left
        with Store.open(path) as store:
            log = LocalLog(store)
            store.duty.stop()
            small, large = log.topic("small"), log.topic("large")
            assert numbers(log, small)[:5] == list(range(5))
            with pytest.raises(StoreCorrupt) as refused:
                numbers(log, large)
            assert refused.value.next_step
            log.append(small, {"n": 6})
            log.append(large, {"n": 6, "text": LARGE})
            log.close()
    assert check(path)
