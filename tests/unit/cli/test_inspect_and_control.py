"""``millstream inspect`` and ``millstream control``, as typed, with a worker in a thread of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

import millstream as ms
from millstream.cli.main import cli
from millstream.engines.local.worker import Worker, WorkerSettings
from millstream.tasks.workers import Order, OrderKind, WorkerProfile

PATIENCE_S = 60


@pytest.fixture
def app(store_path: Path) -> Iterator[ms.App]:
    with ms.App("shop", store=store_path, durability="process") as opened:
        yield opened


def typed(*words: str) -> Result:
    return CliRunner().invoke(cli, [*words], env={"COLUMNS": "200"})


@contextmanager
def working(app: ms.App, heard: list[Order]) -> Iterator[None]:
    """Work until the block ends; what is asked of the node is put into ``heard``."""
    profile = WorkerProfile(node="n1", pool="process", tasks=tuple(app.tasks.names()))
    settings = WorkerSettings(profile=profile)
    worker = Worker(app.tasks_engine, app.tasks, settings, chance=Random(0))
    worker.on_order = heard.append
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(PATIENCE_S)


def test_workers_are_shown(app: ms.App, store_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @app.task(name="hold")
    def hold() -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    store = str(store_path)
    with working(app, []):
        result = hold.delay()
        assert begun.wait(PATIENCE_S)
        ask = ["--timeout", "1m", store]
        try:
            ping = typed("inspect", "ping", *ask)
            assert (ping.exit_code, "pong" in ping.output, "n1" in ping.output) == (0, True, True)
            (worker,) = json.loads(typed("inspect", "ping", "--json", *ask).output)
            active = typed("inspect", "active", *ask).output
            assert result.id in active
            assert "hold" in active
            (running,) = json.loads(typed("inspect", "active", "--json", *ask).output)[worker]
            assert (running["id"], running["name"]) == (result.id, "hold")
            assert worker in typed("inspect", "stats", *ask).output
            (facts,) = json.loads(typed("inspect", "stats", "--json", *ask).output)
            assert (facts["node"], facts["pool"], facts["report"]["running_count"]) == (
                "n1",
                "process",
                1,
            )
            assert "hold" in typed("inspect", "registered", *ask).output
            registered = json.loads(typed("inspect", "registered", "--json", *ask).output)
            assert registered == {"n1": sorted(app.tasks.names())}
            assert json.loads(typed("inspect", "reserved", "--json", *ask).output) == []
            typed("inspect", "reserved", *ask)
        finally:
            go_on.set()
        result.get(PATIENCE_S)


def test_who_does_not_answer_is_named(app: ms.App, store_path: Path) -> None:
    profile = WorkerProfile(node="n1", pool="process")
    app.tasks_engine.join(["default"], lease_us=1_000_000, profile=profile)
    ping = typed("inspect", "ping", "--timeout", "0s", str(store_path))
    assert (ping.exit_code, "no answer" in ping.output) == (1, True)


def test_without_workers_nobody_answers(app: ms.App, store_path: Path) -> None:
    assert app.workers.all() == []
    ping = typed("inspect", "ping", str(store_path))
    assert (ping.exit_code, ping.output) == (1, "No worker answers.\n")
    assert typed("control", "shutdown", str(store_path)).output == "No worker runs.\n"


@pytest.mark.parametrize(
    ("words", "kind", "most", "fewest"),
    [
        (["shutdown"], OrderKind.SHUTDOWN, 0, 0),
        (["autoscale", "9,3"], OrderKind.AUTOSCALE, 9, 3),
        (["pool_grow", "2"], OrderKind.POOL_GROW, 2, 0),
        (["pool_shrink", "1"], OrderKind.POOL_SHRINK, 1, 0),
    ],
)
def test_orders_are_passed_on(
    app: ms.App, store_path: Path, words: list[str], kind: OrderKind, most: int, fewest: int
) -> None:
    heard: list[Order] = []
    with working(app, heard):
        while not app.workers.all():
            pass
        told = typed("control", *words, str(store_path), "--destination", "n1")
        assert (told.exit_code, told.output) == (0, "n1\n")
    # What was not heard while it ran is heard when it leaves.
    assert [(one.kind, one.most, one.fewest) for one in heard] == [(kind, most, fewest)]


def test_bounds_that_cannot_be_read_are_refused(app: ms.App, store_path: Path) -> None:
    assert app.workers.all() == []
    refused = typed("control", "autoscale", "many", str(store_path))
    assert (refused.exit_code, "MAX,MIN" in refused.output) == (2, True)
