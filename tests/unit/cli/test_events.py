"""``millstream events``, as typed; and the bar of ``millstream tasks show --follow``."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

import millstream as ms
from millstream.cli.main import cli
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.primitives.errors import ConfigurationError

PATIENCE_S = 60


@pytest.fixture
def app(store_path: Path) -> Iterator[ms.App]:
    with ms.App("shop", store=store_path, durability="process") as opened:
        yield opened


def typed(*words: str) -> Result:
    return CliRunner().invoke(cli, [*words], env={"COLUMNS": "200"})


def test_events_are_turned_on_read_and_turned_off(app: ms.App, store_path: Path) -> None:
    @app.task(name="add")
    def add(a: int) -> int:
        return a

    store = str(store_path)
    add.delay(0)
    assert isinstance(typed("events", store).exception, ConfigurationError)
    assert typed("events", "--no-follow", "--all", store).output == ""
    assert "are recorded" in typed("control", "enable_events", store).output
    assert "already" in typed("control", "enable_events", store).output
    result = add.delay(1)
    assert typed("events", "--no-follow", store).output == ""
    (line,) = typed("events", "--no-follow", "--all", store).output.splitlines()
    assert "new → queued" in line
    assert f"{result.id}  add  attempt 1" in line
    told = json.loads(typed("events", "--no-follow", "--all", "--json", store).output)
    assert (told["id"], told["after"], told["before"]) == (result.id, "queued", None)
    assert "Nothing is recorded" in typed("control", "disable_events", store).output
    assert "Nothing was recorded" in typed("control", "disable_events", store).output


def test_progress_is_followed_to_the_end(app: ms.App, store_path: Path) -> None:
    @app.task(bind=True, name="load")
    def load(self: ms.BoundTask) -> str:
        self.update_state(meta={"current": 1, "total": 4, "message": "[bold]pages"})
        assert go_on.wait(PATIENCE_S)
        self.update_state(state="LAST", meta={})
        return "done"

    go_on = threading.Event()
    result = load.delay()
    worker = Worker(app.tasks_engine, app.tasks, WorkerSettings(burst=True), chance=Random(0))
    thread = threading.Thread(target=worker.run)
    told: list[tuple[str, str]] = []
    for status, progress in app.tasks_engine.changes(result.id):
        told.append((str(status.state), "" if progress is None else progress.state))
        if status.state is ms.TaskState.QUEUED:
            thread.start()
        if progress is not None:
            go_on.set()
    thread.join(PATIENCE_S)
    assert told[0] == ("queued", "")
    assert ("running", "PROGRESS") in told
    assert told[-1] == ("succeeded", "")
    shown = typed("tasks", "show", "--follow", result.id, str(store_path)).output
    assert "load succeeded" in shown
    assert "'done'" in shown


def test_following_nobody_is_an_error(app: ms.App, store_path: Path) -> None:
    assert app.events.is_enabled is False
    followed = typed("tasks", "show", "--follow", "nobody", str(store_path))
    assert isinstance(followed.exception, ms.errors.UnknownTask)
