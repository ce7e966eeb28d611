"""Each benchmark runs as ``make bench`` runs it, for a moment: the last line is one JSON with every figure.

Nothing here looks at how fast anything is. Peers that are not installed have no value, and a reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


def test_tasks(tmp_path: Path):
    figures = run("tasks", tmp_path)["figures"]
    for figure in figures:
        check(figure)
    assert set(figures[0]["peers"]) == {"honker", "litequeue", "persist-queue"}


def test_flows(tmp_path: Path):
    figures = run("flows", tmp_path)["figures"]
    for figure in figures:
        check(figure)
    assert figures[0]["peers"]["polars"] > 0


def test_one_scenario_without_peers(tmp_path: Path):
    [figure, *_] = run("log", tmp_path, "--only", "append", "--no-peers")["figures"]
    assert figure["peers"] == {}


@pytest.mark.parametrize("options", [["--only", "nothing"], ["--rounds", "0"]])
def test_a_wrong_option_is_refused(options: list[str]):
    command = [sys.executable, "-m", "benchmarks.log", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert options[0] in done.stderr
