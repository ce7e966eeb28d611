"""``millstream triggers``: processes that run what is due, are killed, stand in and are stopped."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import millstream as ms

PATIENCE_S = 60.0

MODULE = """
import millstream as ms

app = ms.App("shop", store="shop.mill", durability="process")
orders = app.topic("orders", schema={"eur": int})


@app.trigger(ms.gathered("orders", events=1), mode="stream")
def copied() -> ms.Flow:
    return app.read(orders).write("copies")
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ms.App]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(MODULE)
    with ms.App("test", store=tmp_path / "shop.mill", durability="process") as app:
        app.topic("orders", schema={"eur": int}).append({"eur": 1})
        app.topic("copies", schema={"eur": int}).append([])
        yield app


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "millstream", "triggers", *words, "-A", "shop:app"]


def started() -> subprocess.Popen[str]:
    return subprocess.Popen(command("run"), stdout=subprocess.PIPE, text=True)


def test_the_command_runs_what_is_due_and_goes_on_after_a_kill(shop: ms.App) -> None:
    orders = shop.topic("orders", schema={"eur": int})
    with shop.topic("copies", schema={"eur": int}).consume("looker") as consumer:

        def came() -> list[int]:
            batch = consumer.poll(PATIENCE_S)
            assert batch is not None, "nothing came"
            return [event["eur"] for event in batch.to_pylist()]

        with started() as first:
            assert came() == [1]
            with started() as stand_in:
                assert stand_in.stdout is not None
                assert stand_in.stdout.readline() == "copied (stream): 1 event in orders\n"
                told = stand_in.stdout.readline()
                assert told == "run by another process, until that ends: copied\n"
                first.kill()
                orders.append({"eur": 2})
                assert came() == [2]
                stand_in.kill()
        orders.append({"eur": 3})
        with started() as last:
            assert came() == [3]
            last.send_signal(signal.SIGTERM)
            said, _ = last.communicate(timeout=PATIENCE_S)
            assert last.returncode == 0
    assert "flow copied: stream, 1 rows in, 1 out" in said


def test_the_commands_once_and_list(shop: ms.App) -> None:
    def ran(*words: str) -> str:
        done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = ran("list")
    assert "copied (stream): 1 event in orders" in first
    assert "  due: now; never ran; runs: 0\n" in first
    assert ran("run", "--once").splitlines()[-1] == "1 run"
    assert ran("run", "--once").splitlines() == ["0 runs"]
    assert re.search(r"due: not by time alone; last run: 20.* runs: 1\n", ran("list"))


def test_processes_that_look_at_once_run_what_is_due_once(shop: ms.App, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(MODULE.replace('mode="stream"', 'mode="batch"'))
    looks = [
        subprocess.Popen(command("run", "--once"), stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [look.communicate(timeout=PATIENCE_S)[0].splitlines()[-1] for look in looks]
    assert sorted(said) == ["0 runs", "0 runs", "1 run"]
    assert shop.read("copies").collect()["eur"].to_pylist() == [1]


def test_a_second_signal_of_either_kind_ends_a_run_that_does_not_end(
    shop: ms.App, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(
        f"import threading\n{MODULE}"
        + """

@app.trigger(ms.gathered("orders", events=1))
def endless() -> ms.Flow:
    app.topic("begun", schema={"n": int}).append({"n": 1})
    while not threading.Event().wait(0.1):
        pass  # Python looks for signals in between
    raise AssertionError
"""
    )
    with shop.topic("begun", schema={"n": int}).consume("looker") as consumer, started() as process:
        assert consumer.poll(PATIENCE_S) is not None, "it has not begun"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        try:
            said, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        assert process.returncode == 130, said
    assert "flow endless" not in said
