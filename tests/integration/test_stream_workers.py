"""``millstream stream --workers``: processes that share a flow, are killed, stopped, and refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import millstream as ms

MODULE = """
import os
from pathlib import Path

import millstream as ms

app = ms.App("shop", store="shop.mill", durability="process")
orders = app.topic("orders", key="city", partitions=4, schema={"city": str, "eur": int})


def note(event):
    folder = Path("seen")
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    return event


def dear() -> ms.Flow:
    seen = app.read(orders).map(note, {"city": str, "eur": int})
    return seen.filter(ms.col("eur") >= 0).write("dear")


def failing() -> ms.Flow:
    def fail(event):
        raise ValueError("not this one")

    return app.read(orders).map(fail, {"city": str}).write("failing")
"""
ROWS = 400


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ms.App]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(MODULE)
    with ms.App("test", store=tmp_path / "shop.mill", durability="process") as app:
        append(app, 0)
        yield app


def append(app: ms.App, first: int) -> None:
    orders = app.topic("orders", key="city", partitions=4, schema={"city": str, "eur": int})
    orders.append([{"city": f"c{n % 40}", "eur": n} for n in range(first, first + ROWS)])


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "millstream", "stream", *words]


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False)


def given(app: ms.App) -> Counter[int]:
    return Counter(app.read("dear").collect()["eur"].to_pylist())


def seen(folder: Path) -> set[int]:
    return {int(path.name) for path in (folder / "seen").glob("*")}


@pytest.mark.parametrize("until", ["--until-end", "--until-now"])
def test_workers_give_each_row_once(app: ms.App, until: str) -> None:
    done = ran("shop:dear", "--workers", "2", until, "--batch-events", "10")
    assert done.returncode == 0, done.stderr
    assert given(app) == Counter(range(ROWS))
    assert done.stdout.count("flow dear: stream") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_worker_that_is_killed_is_replaced_and_a_stop_reaches_all(
    app: ms.App, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command("shop:dear", "--workers", "2"), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        dear = app.topic("dear", schema={"city": str | None, "eur": int | None})
        with dear.consume("watch") as consumer:
            taken, batches = 0, iter(consumer)
            while taken < ROWS:
                taken += len(next(batches))
            [killed, *_] = seen(tmp_path)
            os.kill(killed, signal.SIGKILL)
            append(app, ROWS)
            while taken < 2 * ROWS:
                taken += len(next(batches))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert given(app) == Counter(range(2 * ROWS))
    assert b"was ended by signal 9; starts again" in err
    assert b"flow dear: stream" in out


@pytest.mark.parametrize("flow", ["failing", "nothing"])
def test_an_error_ends_all_and_is_said(app: ms.App, flow: str) -> None:
    done = ran(f"shop:{flow}", "--workers", "2", "--until-end")
    assert done.returncode > 0
    assert ("not this one" if flow == "failing" else "nothing") in done.stderr
    assert "starts again" not in done.stderr
