"""Each benchmark runs as ``make bench`` runs it, for a moment: the last line is one JSON with every figure.

Nothing here looks at how fast anything is. Peers that are not installed have no value, and a reason.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks.harness import Unavailable
from benchmarks.peers.redis_server import redis_server
from benchmarks.stream.contract import PEERS_VARIABLE, Peer
from benchmarks.stream.events import INTEGER, write_events
from benchmarks.stream.every import PLAIN
from benchmarks.stream.throughput import Case, measure_peer
from benchmarks.tasks.contract import KINDS, SPIN_20, USUAL, Amounts
from benchmarks.tasks.driver import BULK, COST, MEDIAN, SEND, TAIL, Job, drained, drive
from tests.architecture.tree import ROOT

FIELDS = {
    "name": str,
    "value": (int, float),
    "unit": str,
    "range": list,
    "durability": (str, type(None)),
    "target": (int, float, type(None)),
    "better": str,
    "met": (bool, type(None)),
    "peers": dict,
    "notes": list,
}


Result = dict[str, Any]


def run(bench: str, place: Path, *options: str) -> Result:
    command = [sys.executable, "-m", f"benchmarks.{bench}", "--quick", "--directory", str(place)]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert list(place.iterdir()) == [], "something is left behind"
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["bench"] == bench
    assert result["machine"]
    return result


def check(figure: Result) -> None:
    assert set(figure) == set(FIELDS)
    for field, kind in FIELDS.items():
        assert isinstance(figure[field], kind), f"{figure['name']}: {field} is {figure[field]!r}"
    assert figure["better"] in {"higher", "lower"}
    low, high = figure["range"]
    assert low <= figure["value"] <= high
    assert (figure["met"] is None) == (figure["target"] is None)
    for peer, value in figure["peers"].items():
        has_reason = any(note.startswith(f"{peer}: ") for note in figure["notes"])
        assert (value is None) == has_reason, f"{figure['name']}: {peer}"


def test_the_log(tmp_path: Path):
    figures = run("log", tmp_path)["figures"]
    for figure in figures:
        check(figure)
    names = [figure["name"] for figure in figures]
    assert len(set(names)) == len(names)
    targets = {figure["name"]: figure["target"] for figure in figures if figure["target"]}
    assert targets == {
        "append, batches of 1000": 5e6,
        "append, batches of 100": 1e6,
        "append, single events": 2e4,
        "single append over (one fdatasync + one SQLite FULL commit)": 1.5,
        "8 appending threads over 1, single events": 4.0,
        "read as Arrow, appended in batches of 1000": 2e7,
        "append to consumer in another process, p99": 1.0,
        "growth of the appender's memory, 0.02 GB": 64.0,
        "growth of the consumer's memory, 0.02 GB": 64.0,
    }
    assert set(figures[0]["peers"]) == {
        "sqlite rows",
        "redis streams",
        "honker",
        "litequeue",
        "persist-queue",
    }
    # This one needs nothing but what the library itself needs.
    assert figures[0]["peers"]["sqlite rows"] > 0


def test_task_queues_beside_each_other(tmp_path: Path):
    # One peer, the one that needs nothing: the others start servers, and all of them take minutes.
    options = ["--only", "queues", "--against", "process pool*"]
    figures = run("tasks", tmp_path, *options)["figures"]
    celery = [figure for figure in figures if "best Celery" in figure["name"]]
    for figure in celery:
        assert figure["value"] is None
        assert figure["met"] is False
        assert figure["notes"][-1] == "millstream: no Celery on Redis was measured"
    for figure in figures:
        if figure not in celery:
            check(figure)
    targets = {figure["name"]: figure["target"] for figure in figures if figure["target"]}
    assert targets == {
        "done, no-op tasks, 1 worker": 20_000,
        "done, no-op tasks, 2 workers": 20_000,
        "done, no-op tasks, over the best Celery on Redis of the round, 1 worker": 30,
        "done, no-op tasks, over the best Celery on Redis of the round, 2 workers": 30,
        "sent, one by one, disk": 4_000,
        "sent, one by one, process": 20_000,
        "sent, many at once, disk": 100_000,
        "sent, many at once, process": 100_000,
        "sent until its result is back, p50, disk": 2.0,
        "sent until its result is back, p50, process": 0.5,
    }
    assert set(figures[0]["peers"]) == {"millstream (process)", "process pool (none)"}


def test_task_workers_busy_crowded_and_idle(tmp_path: Path):
    figures = run("tasks", tmp_path, "--only", "[!q]*", "--against", "process pool*")["figures"]
    for figure in figures:
        check(figure)
    targets = {figure["name"]: figure["target"] for figure in figures if figure["target"]}
    assert targets == {
        "two processors that two workers keep busy with 20 ms tasks": 95,
        "a claim of 256 with 2,048 waiting, over one with 1,024": 1.1,
        "most memory of a worker process with 2,048 waiting": 100e6 / 2**20,
        "a worker that has nothing to do": 0.5,
    }


def test_a_system_is_measured_in_a_process_of_its_own(tmp_path: Path):
    amounts = Amounts(singles=30, bulk=40, spins_1_ms=3, spins_20_ms=1, round_trips=5)
    values = drive(Job("process pool (none)", amounts), tmp_path)
    kinds = {drained(kind, workers) for kind in KINDS for workers in (1, 2)}
    assert set(values) == {SEND, BULK, MEDIAN, TAIL, COST, *kinds}
    assert all(value > 0 for name, value in values.items() if name != COST)
    assert values[COST] >= 0
    assert 0 < values[drained(SPIN_20, 1)] < 50
    assert 0 < values[drained(SPIN_20, 2)] < 100


def test_a_system_that_cannot_run_says_why(tmp_path: Path):
    with pytest.raises(Unavailable, match="there is no system 'nobody'"):
        drive(Job("nobody", USUAL), tmp_path)


def test_a_system_that_takes_too_long_is_ended(tmp_path: Path):
    with pytest.raises(Unavailable, match="not done within 0 s"):
        drive(Job("process pool (none)", USUAL, timeout_s=0.2), tmp_path)


@pytest.mark.parametrize(("appendfsync", "kept"), [(None, "no"), ("always", "yes")])
def test_a_redis_of_our_own_keeps_what_it_is_told_to(
    tmp_path: Path, appendfsync: str | None, kept: str
):
    with redis_server(tmp_path, appendfsync=appendfsync) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"SET a 1\r\nCONFIG GET append*\r\n")
            answer = b""
            while b"appendonly" not in answer or b"appendfsync" not in answer:
                answer += connection.recv(4096)
        words = answer.decode().split("\r\n")
        assert words[0] == "+OK"
        assert words[words.index("appendonly") + 2] == kept
        if appendfsync is not None:
            assert words[words.index("appendfsync") + 2] == appendfsync
    files = [path for path in tmp_path.rglob("*") if path.is_file() and b"SET" in path.read_bytes()]
    assert bool(files) == (appendfsync is not None)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)


def test_sequences(tmp_path: Path):
    figures = run("sequence", tmp_path)["figures"]
    for figure in figures:
        check(figure)
    assert [figure["target"] for figure in figures] == [3e6, 1e6, None]
    assert figures[1]["peers"]["a heap a key"] > 0
    assert figures[2]["peers"]["a heap a key"] is None


def test_flows(tmp_path: Path):
    figures = run("flows", tmp_path)["figures"]
    for figure in figures:
        check(figure)
    assert figures[0]["peers"]["polars"] > 0


def test_batches(tmp_path: Path):
    # Two peers, those that start no processes.
    figures = run("batch", tmp_path, "--only", "tpch", "--against", "*[sb]")["figures"]
    for figure in figures:
        check(figure)
    targets = {figure["name"]: figure["target"] for figure in figures if figure["target"]}
    assert targets == {"all queries: our time over that of plain Polars": 1.3}
    peers = figures[0]["peers"]
    assert set(peers) == {"polars", "duckdb"}
    assert all(peers.values()), figures[0]["notes"]


def test_batches_with_a_limit_of_memory(tmp_path: Path):
    figures = run("batch", tmp_path, "--only", "memory", "--scale", "0.001")["figures"]
    for figure in figures:
        check(figure)
        assert figure["value"] > 0
        assert figure["notes"][0].startswith("40,000 rows")
    parts = ("peak of memory", "peak of memory, limit 200MiB", "time with the limit over without")
    works = ("groups to a file", "groups to a topic", "an order to a file")
    assert [figure["name"] for figure in figures] == [
        f"{w}: {part}" for w in works for part in parts
    ]


def test_the_scale_can_be_chosen(tmp_path: Path):
    [figure, *_] = run("batch", tmp_path, "--only", "tpch", "--no-peers", "--scale", "0.001")[
        "figures"
    ]
    assert figure["notes"][0].startswith("scale 0.001, 7,")


def test_streams_beside_each_other(tmp_path: Path):
    # One peer, the one that needs nothing: the others are engines in environments of their own.
    figures = run("stream", tmp_path, "--against", "plain Python")["figures"]
    assert {"a shared stream, 1 worker", "a shared stream, 2 workers"} <= {
        f["name"] for f in figures
    }
    for figure in figures:
        check(figure)
    targets = {figure["name"]: figure["target"] for figure in figures if figure["target"]}
    assert targets == {
        "windows, integer keys, micro-batches of 10000": 8e6,
        "windows, integer keys, micro-batches of 100000": 8e6,
        "most memory of it, integer keys": pytest.approx(500e6 / 2**20),
        "windows, string keys, micro-batches of 10000": 5e6,
        "windows, string keys, micro-batches of 100000": 5e6,
        "most memory of it, string keys": pytest.approx(500e6 / 2**20),
        "2 workers over 1, of the same round": 1.8,
        "state that a Python function keeps of each key": 600e3,
        "append to result in another process, p50, process": 2.0,
        "append to result in another process, p99, process": 10.0,
        "append to result in another process, p99, disk": 20.0,
        "the flights through the demo's stream": 2.0,
    }
    assert all(figure["peers"]["plain Python"] > 0 for figure in figures if figure["peers"])


def test_an_engine_that_is_not_installed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PEERS_VARIABLE, str(tmp_path))
    with pytest.raises(Unavailable, match=r"requirements/pathway\.txt"):
        Peer("pathway", "peers.pathway_flow", "pathway").python()


def test_a_stream_that_gives_something_else_has_no_figure(tmp_path: Path):
    write_events(tmp_path / "1000", 1_000, INTEGER)
    expected = {1_000: pl.DataFrame({name: [0] for name in ("start_us", "key", "hits", "total")})}
    place = tmp_path / "run"
    place.mkdir()
    with pytest.raises(RuntimeError, match="a wrong result: "):
        measure_peer(Case(INTEGER, tmp_path, expected), PLAIN, 1_000, place)


def test_one_scenario_without_peers(tmp_path: Path):
    [figure, *_] = run("log", tmp_path, "--only", "append", "--no-peers")["figures"]
    assert figure["peers"] == {}


@pytest.mark.parametrize("options", [["--only", "nothing"], ["--rounds", "0"]])
def test_a_wrong_option_is_refused(options: list[str]):
    command = [sys.executable, "-m", "benchmarks.log", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert options[0] in done.stderr
