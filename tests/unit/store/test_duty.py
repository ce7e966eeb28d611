"""The thread that does background work."""

from __future__ import annotations

from pathlib import Path

from millstream.store import Store


def test_a_store_that_is_closed_before_its_duty_has_begun_ends_it_quietly(store_path: Path) -> None:
    # An error in a thread would fail this test.
    with Store.open(store_path, durability="process") as store:
        store._closed = True
        store.duty.add("chore", lambda: False)
        thread = store.duty._thread
        assert thread is not None
        thread.join(30)
        store._closed = False
        assert not thread.is_alive()
        assert store.duty.errors == []
