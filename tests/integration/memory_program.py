"""Runs a flow over files in a process of its own, and tells its rows and the peak of its memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl
from sklearn.linear_model import SGDRegressor

import millstream as ms

MODEL = ms.Model("line", SGDRegressor(eta0=1e-12), ["k"], "v", chunk_rows=10_000)


def peak_mib() -> float:
    """Return the peak of this program; what ``getrusage`` tells began with that of the process it was forked from."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) / 1024


def main(place: str, numbers: str, what: str, sink: str, memory: str) -> None:
    folder = Path(place)
    folder.mkdir()
    with ms.App("memory", store=folder / "s.mill", durability="process") as app:
        rows = app.read(f"{numbers}/*.parquet")
        flow = {
            "group": lambda: rows.group_by("k").agg(n=ms.count(), v=ms.sum("v")),
            "sort": lambda: rows.sort("k"),
            "fit": lambda: rows.fit(MODEL, into="said").select("k", "v"),
            "fit only": lambda: rows.fit(MODEL),
            "filter": lambda: rows.filter(ms.col("v") >= 0),
        }[what]()
        target = "out" if sink == "topic" else str(folder / "out.parquet")
        before = peak_mib()
        report = (flow.write(target) if sink else flow).run(memory=memory or None)
        held = peak_mib() - before
        sums = None
        if sink:
            result = app.read(target).select("k", "v").agg(k=ms.sum("k"), v=ms.sum("v"))
            [sums] = result.collect().to_pylist()
        learned = [model.rows for model in app.models.all()]
    told = {
        "learned": learned,
        "rows": report.rows_out,
        "sums": sums,
        "held_mib": held,
        "polars": pl.__version__,
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
