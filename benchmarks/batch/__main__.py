"""``python -m benchmarks.batch``."""

from __future__ import annotations

from benchmarks.batch.memory import memory
from benchmarks.batch.tpch import tpch
from benchmarks.command import bench_command
from benchmarks.harness import Scenario

SCENARIOS: dict[str, Scenario] = {"tpch": tpch, "memory": memory}

main = bench_command(
    "batch",
    SCENARIOS,
    rounds_usual=3,
    scale_quick=0.01,
    explained=(
        "Nothing has a durability here: files are read, and answers stay in memory.",
        "How each peer is set up stands at the top of its file in benchmarks/batch/peers.",
    ),
)

if __name__ == "__main__":
    main()
