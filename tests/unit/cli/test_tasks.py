"""``millstream tasks`` and ``millstream queues``, as typed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

import millstream as ms
from millstream.cli.main import cli
from millstream.engines.local.worker import Worker, WorkerSettings


@pytest.fixture
def app(store_path: Path) -> Iterator[ms.App]:
    with ms.App("shop", store=store_path, durability="process") as opened:
        yield opened


def typed(*words: str) -> Result:
    return CliRunner().invoke(cli, [*words], env={"COLUMNS": "200"})


def work(app: ms.App) -> None:
    settings = WorkerSettings(queues=("default", "mail"), burst=True)
    Worker(app.tasks_engine, app.tasks, settings, chance=Random(0)).run()


def test_a_dead_task_is_found_shown_and_tried_again(app: ms.App, store_path: Path) -> None:
    broken = True

    @app.task(retries=0, queue="mail", name="send")
    def send(to: str) -> str:
        if broken:
            raise ValueError(f"no [bold]{to}")
        return to

    result = send.delay("ann")
    work(app)
    listed = typed("tasks", "list", str(store_path), "--state", "failed", "--name", "send")
    assert result.id in listed.output
    assert "no [bold]ann" in listed.output
    shown = typed("tasks", "show", result.id, str(store_path))
    assert "Traceback" in shown.output
    assert "ValueError: no [bold]ann" in shown.output
    broken = False
    assert "1 queued again" in typed("tasks", "retry", "all", str(store_path)).output
    work(app)
    assert result.get(0) == "ann"
    assert "'ann'" in typed("tasks", "show", result.id, str(store_path)).output


def test_progress_is_a_bar(app: ms.App, store_path: Path) -> None:
    outputs: list[str] = []

    @app.task(bind=True)
    def slow(self: ms.BoundTask) -> None:
        self.update_state(meta={"current": 5, "total": 10})
        outputs.append(typed("tasks", "show", self.request.id, str(store_path)).output)

    slow.delay()
    work(app)
    assert "PROGRESS {'current': 5, 'total': 10}" in outputs[0]
    assert "━" in outputs[0]


def test_revoking_and_purging(app: ms.App, store_path: Path) -> None:
    @app.task
    def noop(n: int) -> None: ...

    first, *_ = noop.map([1, 2, 3])
    where = str(store_path)
    assert "1 revoked" in typed("tasks", "revoke", first.id, where, "--reason", "late").output
    assert "revoked  late" in typed("tasks", "show", first.id, where).output
    assert "0 revoked" in typed("tasks", "revoke", first.id, where).output
    assert "2 revoked" in typed("tasks", "revoke", "all", where, "--state", "queued").output
    assert "0 deleted" in typed("tasks", "purge", where, "--older", "1h", "--force").output
    assert CliRunner().invoke(cli, ["tasks", "purge", where], input="n\n").exit_code == 1
    assert "3 deleted" in typed("tasks", "purge", where, "--force").output
    assert "No such task" in typed("tasks", "list", where).output
    for words in (("show", "nobody"), ("retry", "nobody"), ("revoke", "nobody")):
        assert isinstance(typed("tasks", *words, where).exception, ms.errors.UnknownTask)


def test_queues(app: ms.App, store_path: Path) -> None:
    @app.task
    def noop() -> None: ...

    where = str(store_path)
    assert app.tasks_engine.control.queues() == []
    assert "No queue" in typed("queues", "list", where).output
    noop.delay()
    assert "default is paused" in typed("queues", "pause", "default", where).output
    work(app)
    listed = typed("queues", "list", where).output
    assert "default (paused)" in listed
    assert "oldest" in listed
    assert "default goes on" in typed("queues", "resume", "default", where).output
    assert "was not paused" in typed("queues", "resume", "default", where).output
    work(app)
    assert app.tasks_engine.depth()[ms.TaskState.SUCCEEDED] == 1
