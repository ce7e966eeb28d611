"""``millstream schedules`` as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import millstream as ms
from millstream.cli.main import cli
from millstream.cli.schedules import schedules
from millstream.primitives.errors import UnknownTask
from millstream.testing import VirtualClock


@pytest.fixture
def store(store_path: Path) -> Path:
    with ms.App("shop", store=store_path, durability="process", clock=VirtualClock()) as app:

        @app.task(name="note")
        def note() -> None: ...

        app.schedule("morning", note.s(), ms.cron("0 9 * * *"))
        app.schedules.synchronise()
    return store_path


def said(*words: str) -> str:
    result = CliRunner().invoke(cli, ["schedules", *words], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_list_pause_resume_trigger_remove(store: Path) -> None:
    option = ["--store", str(store)]
    assert "2023-11-15 09:00:00" in said("list", *option)
    assert "cron 0 9 * * * (UTC)" in said("list", *option)
    assert said("pause", "morning", *option) == "morning is paused\n"
    assert "paused" in said("list", *option)
    assert said("resume", "morning", *option) == "morning runs again\n"
    task_id = said("trigger", "morning", *option).strip()
    with ms.App("shop", store=store) as app:
        assert app.tasks.result(task_id).state == "queued"
    said("remove", "morning", *option)
    assert "morning" not in said("list", *option)


def test_a_name_that_is_not_there(store: Path) -> None:
    with pytest.raises(UnknownTask):
        schedules.main(["pause", "evening", "--store", str(store)], standalone_mode=False)
