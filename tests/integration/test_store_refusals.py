"""What is not a store, is a newer one, or may not be written: refused in words, and left as it is."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import millstream as ms
from millstream.engines.local.log import LocalLog
from millstream.primitives.errors import (
    MillstreamError,
    NotAStore,
    StoreBusy,
    StoreClosed,
    StoreCorrupt,
    StoreReadOnly,
    StoreVersionError,
)
from millstream.store import Store, catalog
from millstream.store.catalog import format_version
from millstream.store.check import check
from millstream.testing.crash import Report, run
from tests.log_kit import make, numbers
from tests.refusals import refused

NOBODY = 65_534


def contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {
        str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()
    }


def a_file(path: Path) -> None:
    path.write_text("my thesis")


def a_folder_of_somebody(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("my thesis")


def another_database(path: Path) -> None:
    path.mkdir()
    with sqlite3.connect(path / "catalog.db") as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
        connection.execute("INSERT INTO photos VALUES ('a.jpg')")
    connection.close()


def another_database_with_our_marker(path: Path) -> None:
    Store.open(path).close()
    (path / "catalog.db").unlink()
    with sqlite3.connect(path / "catalog.db") as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()


def no_database(path: Path) -> None:
    path.mkdir()
    (path / "catalog.db").write_bytes(b"my thesis " * 1_000)


@pytest.mark.parametrize("make_it", [a_file, a_folder_of_somebody, another_database, no_database])
def test_what_is_not_a_store_is_refused_and_not_touched(
    store_path: Path, make_it: Callable[[Path], None]
):
    make_it(store_path)
    before = contents(store_path)
    for open_it in (lambda: Store.open(store_path), lambda: ms.App("a", store=store_path).topics()):
        with refused(NotAStore, str(store_path)):
            open_it()
        assert contents(store_path) == before


def test_a_foreign_catalog_in_a_store_is_refused_and_not_touched(store_path: Path):
    another_database_with_our_marker(store_path)
    before = (store_path / "catalog.db").read_bytes()
    with pytest.raises((NotAStore, StoreCorrupt)) as caught:
        Store.open(store_path)
    assert "catalog" in str(caught.value)
    assert (store_path / "catalog.db").read_bytes() == before
    assert check(store_path)


def test_a_path_that_is_not_there_is_made_only_when_asked(store_path: Path):
    with refused(NotAStore, str(store_path)):
        Store.open(store_path, create=False)
    assert not store_path.exists()
    Store.open(store_path / "deep" / "er").close()
    assert check(store_path / "deep" / "er") == []


def test_an_empty_folder_becomes_a_store(store_path: Path):
    store_path.mkdir()
    with refused(NotAStore):
        Store.open(store_path, create=False)
    Store.open(store_path).close()
    assert check(store_path) == []


def test_a_store_of_a_newer_version_is_refused_and_not_touched(store_path: Path):
    Store.open(store_path).close()
    connection = catalog.connect(store_path / "catalog.db", vfs=None)
    connection.pragma("user_version", format_version() + 1)
    catalog.keep_log(connection, keep=False)
    connection.close()
    before = (store_path / "catalog.db").read_bytes()
    for work in (lambda: Store.open(store_path), lambda: check(store_path)):
        with refused(StoreVersionError, str(format_version() + 1), "newer millstream"):
            work()
    assert (store_path / "catalog.db").read_bytes() == before


def test_a_catalog_without_checksums_is_refused(store_path: Path):
    Store.open(store_path).close()
    (store_path / "catalog.db").unlink()
    plain = sqlite3.connect(store_path / "catalog.db")
    plain.execute("CREATE TABLE topic (id INTEGER)")
    plain.execute(f"PRAGMA application_id = {catalog.APPLICATION_ID}")
    plain.execute(f"PRAGMA user_version = {format_version()}")
    plain.commit()
    plain.close()
    with refused(StoreCorrupt, "no checksums"):
        Store.open(store_path)
    assert [finding.what for finding in check(store_path)] == [
        "the catalog's pages have no checksums"
    ]


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def open_as_nobody(report: Report, path: Path) -> None:
    """Open the store as a user who may not write it."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
    try:
        Store.open(path).close()
    except MillstreamError as error:
        report((type(error).__name__, error.where, error.expected, error.next_step))


def test_a_directory_that_may_not_be_written_is_refused(open_to_all: Path):
    path = open_to_all / "store.mill"
    with Store.open(path) as store:
        log = LocalLog(store)
        log.append(make(log), {"n": 1})
        log.close()
    before = contents(path)
    for each in [*path.rglob("*"), path, open_to_all]:
        each.chmod(0o555 if each.is_dir() else 0o444)
    for place in (path, open_to_all / "new.mill"):
        outcome = run(open_as_nobody, place)
        assert not outcome.error, outcome.error
        [(kind, where, expected, next_step)] = outcome.reports
        assert kind == StoreReadOnly.__name__
        assert str(open_to_all) in where
        assert expected
        assert next_step
    for each in [open_to_all, path, *path.rglob("*")]:
        each.chmod(0o755 if each.is_dir() else 0o644)
    assert contents(path) == before
    assert check(path) == []


def test_a_foreign_writer_that_does_not_let_go_is_said(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(catalog, "WRITE_LOCK_TIMEOUT_S", 0.05)
    with Store.open(store_path) as store:
        log = LocalLog(store)
        store.duty.stop()
        info = make(log)
        foreign = catalog.connect(store_path / "catalog.db", vfs=None)
        foreign.execute("BEGIN IMMEDIATE")
        with refused(StoreBusy, "locked"):
            log.append(info, {"n": 1})
        foreign.execute("ROLLBACK")
        foreign.close()
        log.append(info, {"n": 2})
        assert numbers(log, info) == [2]
        log.close()


def test_a_closed_store_says_so(store_path: Path):
    store = Store.open(store_path)
    log = LocalLog(store)
    info = make(log)
    log.close()
    store.close()
    store.close()
    works: list[Callable[[], object]] = [
        lambda: log.append(info, {"n": 1}),
        lambda: log.read(info, 0, 0),
        lambda: store.waiter("x"),
        store.checkpoint,
    ]
    for work in works:
        with refused(StoreClosed, str(store_path)):
            work()


def use_after_fork(report: Report, path: Path) -> None:
    """Open a store, fork, and use it in the child."""
    store = Store.open(path)
    log = LocalLog(store)
    info = make(log)
    child = os.fork()
    if child == 0:
        try:
            log.append(info, {"n": 1})
        except StoreClosed as error:
            report(error.what)
        os._exit(0)
    os.waitpid(child, 0)
    log.append(info, {"n": 2})
    report(numbers(log, info))
    log.close()
    store.close()


def test_a_forked_child_must_open_its_own(store_path: Path):
    outcome = run(use_after_fork, store_path)
    assert not outcome.error, outcome.error
    assert outcome.reports == ["the store was opened before a fork", [2]]
    assert check(store_path) == []


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the kernel does not list its locks")
def test_opening_a_store_twice_in_a_process_keeps_its_locks(store_path: Path):
    """POSIX frees all locks of a process on a file when it closes any descriptor of it, SQLite's among them."""

    def shared_locks() -> int:
        inode = (store_path / "catalog.db").stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
        held = [line.split() for line in lines if " POSIX " in line and f":{inode} " in line]
        return sum(words[4] == str(os.getpid()) for words in held)

    with Store.open(store_path) as store:
        assert shared_locks() == 1
        with Store.open(store_path):
            assert shared_locks() == 1
        assert shared_locks() == 1
        assert store.write(lambda tx: 7) == 7
