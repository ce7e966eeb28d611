"""``millstream run``, ``stream`` and ``explain``: flows of a module, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import millstream as ms

MODULE = """
import millstream as ms

app = ms.App("shop", store="shop.mill", durability="process")
orders = app.topic("orders", schema={"city": str, "eur": int})
number = 7


def rome() -> ms.Flow:
    return app.read(orders).filter(ms.col("city") == "Rom").write("rome")


by_city = app.read(orders).group_by("city").agg(eur=ms.sum("eur")).write("by_city.csv")


nowhere = app.read(orders).filter(ms.col("eur") > 3)


def of_city(city: str) -> ms.Flow:
    return app.read(orders).filter(ms.col("city") == city).write("of_city")


def broken() -> ms.Flow:
    return app.read(orders).sort("eur").write("sorted")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(MODULE)
    return tmp_path


@pytest.fixture
def app(folder: Path) -> Iterator[ms.App]:
    with ms.App("test", store=folder / "shop.mill", durability="process") as app:
        orders = app.topic("orders", schema={"city": str, "eur": int})
        orders.append([{"city": "Rom", "eur": 5}, {"city": "Bern", "eur": 3}])
        yield app


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "millstream", *words]


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False)


def test_a_flow_is_run_as_a_batch(app: ms.App, folder: Path) -> None:
    done = ran("run", "shop:by_city")
    assert done.returncode == 0, done.stderr
    assert "flow by_city: batch, 2 rows in, 2 out" in done.stdout
    assert (folder / "by_city.csv").read_text() == "city,eur\nBern,3\nRom,5\n"


def test_a_flow_is_streamed_to_its_end(app: ms.App) -> None:
    done = ran("stream", "shop:rome", "--until-end", "--batch-events", "1")
    assert done.returncode == 0, done.stderr
    assert "flow rome: stream, 2 rows in, 1 out, 2 batches" in done.stdout
    assert app.read("rome").collect()["eur"].to_pylist() == [5]


def test_a_flow_is_streamed_up_to_now_and_goes_on_the_next_time(app: ms.App) -> None:
    assert "2 rows in, 1 out" in ran("stream", "shop:rome", "--until-now").stdout
    app.topic("orders", schema={"city": str, "eur": int}).append({"city": "Rom", "eur": 7})
    assert "1 rows in, 1 out" in ran("stream", "shop:rome", "--until-now").stdout
    assert app.read("rome").collect()["eur"].to_pylist() == [5, 7]
    both = ran("stream", "shop:rome", "--until-now", "--until-end")
    assert both.returncode == 2
    assert "exclude each other" in both.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_stops_behind_its_commit_and_goes_on_later(
    app: ms.App, number: signal.Signals
) -> None:
    rome = app.topic("rome", schema={"city": str, "eur": int})
    with rome.consume("test") as consumer:
        process = subprocess.Popen(
            command("stream", "shop:rome"), stdout=subprocess.PIPE, text=True
        )
        batches = iter(consumer)
        assert [row["eur"] for row in next(batches).to_pylist()] == [5]
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "flow rome: stream, 2 rows in, 1 out" in output
    app.topic("orders", schema={"city": str, "eur": int}).append({"city": "Rom", "eur": 9})
    assert "1 rows in, 1 out" in ran("stream", "shop:rome", "--until-end").stdout


def test_a_plan_is_explained(app: ms.App) -> None:
    done = ran("explain", "shop:rome")
    assert done.returncode == 0, done.stderr
    assert "filter((col('city') == 'Rom'))" in done.stdout
    assert "write topic 'rome'" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "shop"), "try shop:rome"),
        (("run", "shop:paris"), "has no 'paris'"),
        (("run", "shop:number"), "is a int, not a flow"),
        (("run", "market:rome"), "no module 'market'"),
        (("run", "shop:of_city"), "without arguments: missing a required argument: 'city'"),
        (("run", "shop:nowhere"), "nowhere to put its output"),
        (("run", "shop.py:rome"), "no module 'shop.py'"),
        (("stream", "shop:by_city", "--until-end"), "would never be finished"),
        (("stream", "shop:broken", "--until-end"), "step 1, sort"),
        (("stream", "shop:rome", "--until-end", "--idle", "1m"), "without an end"),
        (("stream", "shop:rome", "--idle", "soon"), "'soon' is not a duration"),
    ],
)
def test_what_cannot_be_is_refused(app: ms.App, words: tuple[str, ...], says: str) -> None:
    done = ran(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
