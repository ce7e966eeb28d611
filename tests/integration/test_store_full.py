"""A disk without space, for real: a small file system where the machine lets us mount one, and a limit on files.

The work runs in a process of its own, which may be limited without limiting the tests.
"""

from __future__ import annotations

import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from millstream.engines.local.log import LocalLog
from millstream.primitives.errors import StoreFull
from millstream.store import Store
from millstream.store.check import check
from millstream.testing.crash import Report, run
from tests.integration.small_disk import hard_limit, limited, small_disk
from tests.log_kit import make, numbers

__all__ = ["limited", "small_disk"]

FILE_BYTES = 1_000_000


def fill(report: Report, path: Path, event_bytes: int) -> None:
    """Append until there is no space; then make some, and append again."""
    # Python ignores it too: a write beyond the limit is an error then, and no signal.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    ballast = path.parent / "ballast"
    if path.parent.stat().st_dev != path.parent.parent.stat().st_dev:
        ballast.write_bytes(bytes(500_000))
    else:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, hard))
    with Store.open(path) as store:
        log = LocalLog(store)
        store.duty.stop()
        info = make(log, schema={"n": int, "data": bytes})
        n = 0
        while True:
            try:
                log.append(info, [{"n": n, "data": bytes(event_bytes)}, {"n": n + 1, "data": b""}])
            except StoreFull as error:
                report(("full", str(error)))
                break
            n += 2
            report(("stored", n))
        report(("seen", numbers(log, info)))
        with suppress(FileNotFoundError):
            ballast.unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard_limit(), hard_limit()))
        log.append(info, [{"n": n, "data": bytes(event_bytes)}, {"n": n + 1, "data": b""}])
        report(("stored", n + 2))
        log.close()


@pytest.mark.parametrize("place", ["small_disk", "limited"])
@pytest.mark.parametrize("event_bytes", [2_000, 60_000], ids=["catalog", "segments"])
def test_a_full_disk_refuses_an_append_keeps_what_is_there_and_goes_on_with_more_space(
    request: pytest.FixtureRequest, place: str, event_bytes: int
):
    path = request.getfixturevalue(place) / "store.mill"
    outcome = run(fill, path, event_bytes)
    assert not outcome.error, outcome.error
    reports: dict[str, Any] = dict(outcome.reports)
    assert "no space left" in reports["full"]
    stored = reports["stored"]
    assert stored > 4
    assert reports["seen"] == list(range(stored - 2))
    with Store.open(path) as store:
        log = LocalLog(store)
        assert numbers(log, log.topic("numbers")) == list(range(stored))
        log.close()
    assert check(path) == []


def make_without_space(report: Report, path: Path) -> None:
    """Make a store where not even an empty one has room; then give it room."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard_limit()))
    try:
        Store.open(path)
    except StoreFull as error:
        report(("full", str(error)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard_limit(), hard_limit()))
    with Store.open(path) as store:
        report(("made", str(store.path)))


def test_a_store_that_has_no_room_to_be_made_is_refused_and_made_once_there_is(limited: Path):
    outcome = run(make_without_space, limited / "store.mill")
    assert not outcome.error, outcome.error
    assert [kind for kind, _ in outcome.reports] == ["full", "made"]
    assert check(limited / "store.mill") == []
