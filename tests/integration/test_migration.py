"""A store of an older format is migrated, whatever happens meanwhile; one of a newer format is not touched.

The older stores are made by this library with the migrations of that time. Processes that migrate
are killed at every step, and lose power at every sync.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest

from millstream.primitives.errors import StoreVersionError
from millstream.store import Store, catalog
from millstream.store.check import check
from millstream.testing.crash import KillAt, run, start
from millstream.testing.power import PowerLoss
from tests.simulation import scenarios
from tests.simulation.ledger import Ledger, opened, stored, verify

NEWEST = catalog.format_version()
OLDER = range(1, NEWEST)
STORE = "shop.mill"


def old_store(path: Path, version: int, *, closed: bool) -> Ledger:
    """Make a store of an older version, with events in rows and in segments."""
    outcome = run(scenarios.old_store, path, version, closed)
    assert not outcome.error, outcome.error
    assert outcome.killed is not closed
    with reading(path) as connection:
        assert connection.pragma("user_version") == version
    return Ledger.of(outcome.reports)


@contextmanager
def reading(path: Path) -> Iterator[apsw.Connection]:
    """Look at a catalog without opening its store, and leave its log as it is."""
    catalog.load_checksums()
    connection = apsw.Connection(
        str(path / "catalog.db"), flags=apsw.SQLITE_OPEN_READONLY, vfs=catalog.CHECKSUM_VFS
    )
    catalog.keep_log(connection, keep=True)
    try:
        yield connection
    finally:
        connection.close()


def set_version(path: Path, version: int, *, keep_log: bool = True) -> None:
    """Claim to be of another version."""
    connection = apsw.Connection(str(path / "catalog.db"), vfs=catalog.CHECKSUM_VFS)
    catalog.keep_log(connection, keep=keep_log)
    connection.pragma("user_version", version)
    connection.close()


def tables(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all tables."""
    found: dict[str, list[dict[str, Any]]] = {}
    with reading(path) as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        for (name,) in names:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            rows = connection.execute(f"SELECT * FROM {name}").fetchall()
            found[name] = [dict(zip(columns, row, strict=True)) for row in rows]
    return found


def content(path: Path) -> dict[str, bytes]:
    """Return every byte that is to last: all but ``run`` and SQLite's index of its log."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and "run" not in file.parts and file.name != "catalog.db-shm"
    }


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("version", OLDER)
def test_an_older_store_is_migrated_with_its_data(version: int, closed: bool, store_path: Path):
    ledger = old_store(store_path, version, closed=closed)
    before = tables(store_path)
    with opened(store_path):
        after = tables(store_path)
    for name, rows in before.items():
        if name != "segment":  # opening seals those of the dead
            kept = [
                {column: new[column] for column in old}
                for old, new in zip(rows, after[name], strict=True)
            ]
            assert kept == rows, name
    with reading(store_path) as connection:
        assert connection.pragma("user_version") == NEWEST
    verify(store_path, ledger)


@pytest.mark.parametrize(
    "step", ["migration.begin", "migration.before_commit", "migration.committed"]
)
@pytest.mark.parametrize("version", OLDER)
def test_a_migration_that_is_killed_is_done_again(version: int, step: str, tmp_path: Path):
    original = tmp_path / "original"
    ledger = old_store(original, version, closed=False)
    for occurrence in range(1, NEWEST - version + 1):
        path = tmp_path / f"{occurrence}"
        shutil.copytree(original, path, ignore=shutil.ignore_patterns("run"))
        assert run(scenarios.reopen, path, kill_at=KillAt(step, occurrence)).killed
        with reading(path) as connection:
            done = occurrence if step == "migration.committed" else occurrence - 1
            assert connection.pragma("user_version") == version + done
        verify(path, ledger)


def test_a_migration_that_loses_power_is_done_again(tmp_path: Path, seed: int):
    original = tmp_path / "original"
    ledger = old_store(original / STORE, 1, closed=True)
    live = tmp_path / "live"
    shutil.copytree(original, live)  # a store that was closed holds nothing but files
    outcome = run(scenarios.traced, "reopen", live / STORE, "disk")
    assert not outcome.error, outcome.error
    [operations] = outcome.reports
    loss = PowerLoss(operations, original)
    for position in loss.boundaries():
        loss.advance(position)
        left = tmp_path / f"{position}"
        loss.write_to(left, Random(f"{seed}-{position}"))
        verify(left / STORE, ledger + Ledger.of(loss.notes))


def test_processes_that_open_an_older_store_at_once_migrate_it_once(store_path: Path):
    ledger = old_store(store_path, 1, closed=True)
    processes = [start(scenarios.open_only, store_path) for _ in range(4)]
    outcomes = [process.wait() for process in processes]
    assert [outcome.error for outcome in outcomes] == [""] * 4
    assert sum(outcome.steps["migration.committed"] for outcome in outcomes) == NEWEST - 1
    verify(store_path, ledger)


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_a_newer_store_is_refused_and_not_touched(closed: bool, store_path: Path):
    old_store(store_path, NEWEST, closed=closed)
    set_version(store_path, NEWEST + 1, keep_log=not closed)
    before = content(store_path)
    with pytest.raises(StoreVersionError) as refused:
        Store.open(store_path)
    assert refused.value.expected == f"at most {NEWEST}"
    assert str(NEWEST + 1) in refused.value.what
    with pytest.raises(StoreVersionError):
        check(store_path)
    after = content(store_path)
    if closed:
        assert after.pop("catalog.db-wal", b"") == b"", (
            "SQLite makes an empty log, and nothing in it"
        )
    assert after == before


def test_it_is_not_touched_while_its_owner_lives_either(store_path: Path):
    """A newer process has the store open: an older one is refused, and the newer one goes on."""
    with opened(store_path) as log:
        log.create_topic(scenarios.spec())
        set_version(store_path, NEWEST + 1)
        outcome = run(scenarios.open_only, store_path)
        assert "StoreVersionError" in outcome.error
        log.append(log.topic("events"), scenarios.events(range(5)))
        assert sorted(n for p in stored(log) for n in p) == list(range(5))
        set_version(store_path, NEWEST)
