"""A store from before locks, limits and revocation keeps its tasks, their order, errors and results."""

from __future__ import annotations

from pathlib import Path

from millstream.store.catalog import connect, migrate, run

BEFORE = 4


def test_tasks_of_an_older_store_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    connection = connect(path, vfs=None, create=True)
    migrate(connection, path, up_to=BEFORE)
    for task_id, state, finished_us in (("a", "queued", None), ("b", "failed", 9)):
        connection.execute(
            "INSERT INTO tasks (id, name, queue, priority, state, arguments, acks_late, alone, eta_us, enqueued_us,"
            " due_us, failures, finished_us, result) VALUES (?, 't', 'q', 7, ?, x'80', 1, 0, 3, 1, 2, 1, ?, x'01')",
            (task_id, state, finished_us),
        )
    connection.execute(
        "INSERT INTO task_attempts VALUES (2, 1, 'raised', 'w', 1, 2, 'E', 'no', 'Traceback')"
    )
    migrate(connection, path)
    (head,) = run(connection, "tasks/heads", {"queue": "q", "tasks_max": 9})
    assert head[7:] == (1, "a", "t", b"\x80", 2, 1, 1, 2, 3, "q", 7, None, None, None)
    (status,) = run(connection, "tasks/status", ("b",))
    assert status[4] == "failed"
    assert status[9:11] == (9, b"\x01")
    assert run(connection, "tasks/attempts", ("b",))[0][6:] == ("no", "Traceback")
    # The errors belong to the new table: they go with their task.
    connection.execute("DELETE FROM tasks WHERE id = 'b'")
    assert list(connection.execute("SELECT count(*) FROM task_attempts")) == [(0,)]
    assert list(connection.execute("PRAGMA integrity_check")) == [("ok",)]
    assert list(connection.execute("PRAGMA foreign_key_check")) == []
    connection.close()
