"""The table that people read and the line that programs read."""

from __future__ import annotations

import json

import pytest

from benchmarks.harness import Figure, Samples
from benchmarks.report import as_json, print_table, readable

FIGURE = Figure(
    "append, batches of 1000",
    Samples((5.1e6, 4.9e6, 5.3e6)),
    "events/s",
    "process",
    5e6,
    peers={"redis streams": Samples((51_000.0,)), "honker": Samples(reason="not installed")},
    notes=["a batch is a RecordBatch"],
)


def test_the_line_holds_every_field():
    line = as_json("log", "2 × CPU", [FIGURE], ["general"])
    assert "\n" not in line
    assert json.loads(line) == {
        "bench": "log",
        "machine": "2 × CPU",
        "figures": [
            {
                "name": "append, batches of 1000",
                "value": 5.1e6,
                "unit": "events/s",
                "range": [4.9e6, 5.3e6],
                "durability": "process",
                "target": 5e6,
                "better": "higher",
                "met": True,
                "peers": {"redis streams": 51_000.0, "honker": None},
                "notes": ["a batch is a RecordBatch", "honker: not installed"],
            }
        ],
        "notes": ["general"],
    }


def test_the_table_says_who_is_better_and_who_did_not_run(capsys: pytest.CaptureFixture[str]):
    lower = Figure("latency", Samples((2.0,)), "ms", None, 1.0, "lower", {"other": Samples((0.5,))})
    print_table("log", "2 × CPU", [FIGURE, lower], ["general"])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    words = [" ".join(line) for line in printed]
    assert "append, batches of 1000 (events/s, durability=process)" in words
    assert "millstream 5.1 M 4.9 M to 5.3 M met: the target is at least 5 M" in words
    assert "redis streams 51 k 51 k to 51 k millstream is 100 times better" in words
    assert "honker - did not run, see the note" in words
    assert "note: honker: not installed" in words
    assert "millstream 2 2 to 2 MISSED: the target is at most 1" in words
    assert "other 0.5 0.5 to 0.5 millstream is 4 times worse" in words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.21, "0.21"), (41, "41"), (41_000, "41 k"), (5.12e6, "5.12 M"), (2.5e9, "2.5 G")],
)
def test_numbers_are_short(value: float, text: str):
    assert readable(value) == text
