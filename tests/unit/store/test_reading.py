"""Views of the catalog: consistent, nested, in our errors, and without preparing a statement twice."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from millstream.primitives.errors import StoreClosed, StoreStopped
from millstream.store import Store

_MANY = 5


def _add(store: Store, queue: str) -> None:
    store.write(lambda tx: tx.run("tasks/pause", (queue, 1)))


def test_a_view_does_not_see_what_is_committed_meanwhile(store_path: Path) -> None:
    with Store.open(store_path, durability="process") as store:
        _add(store, "a")
        with store.read() as view:
            assert len(view.run("tasks/pauses")) == 1
            _add(store, "b")
            assert len(view.run("tasks/pauses")) == 1
            with store.read() as inner:
                assert len(inner.run("tasks/pauses")) == 1, "the same view"
            assert len(store.look("tasks/pauses")) == 1, "the same view"
            assert len(view.run("tasks/pauses")) == 1, "the inner block has not ended it"
        assert len(store.look("tasks/pauses")) == 2


def test_errors_of_sqlite_are_ours(store_path: Path) -> None:
    with Store.open(store_path, durability="process") as store:
        with pytest.raises(StoreStopped, match="datatype mismatch"), store.read() as view:
            view.run("tasks/heads", {"queue": "q", "tasks_max": "many"})
        with pytest.raises(StoreStopped, match="datatype mismatch"):
            store.look("tasks/heads", {"queue": "q", "tasks_max": "many"})
        assert store.look("tasks/pauses") == [], "the view has ended, the next one begins"


def test_an_error_that_is_not_sqlites_passes_through_a_view(store_path: Path) -> None:
    with Store.open(store_path, durability="process") as store:
        with pytest.raises(KeyError), store.read():
            raise KeyError("mine")
        assert store.look("tasks/pauses") == []


def test_a_store_that_is_closed_under_its_readers(store_path: Path) -> None:
    store = Store.open(store_path, durability="process")
    begun, not_begun = store.read(), store.read()
    begun.__enter__()
    store.close()
    with pytest.raises(StoreStopped, match="closed"):
        begun.__exit__(None, None, None)
    with pytest.raises(StoreStopped, match="closed"):
        not_begun.__enter__()
    with pytest.raises(StoreClosed):
        store.look("tasks/pauses")


def test_a_statement_is_prepared_once_whatever_is_bound(store_path: Path) -> None:
    # This one begins with a comment and ends with LIMIT: without the guarantee it was prepared at every run.
    prepared_again = []

    def note(event: dict[str, dict[str, int]]) -> None:
        prepared_again.append(event["stmt_status"]["SQLITE_STMTSTATUS_REPREPARE"])

    with Store.open(store_path, durability="process") as store, store.read() as view:
        connection: apsw.Connection = view._cursor.connection
        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, note)
        for limit in range(_MANY):
            view.run("tasks/heads", {"queue": "q", "tasks_max": limit})
        connection.trace_v2(0, None)
    assert prepared_again == [0] * _MANY
