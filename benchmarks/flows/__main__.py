"""``python -m benchmarks.flows``."""

from __future__ import annotations

from benchmarks.command import bench_command
from benchmarks.flows.batch import batch
from benchmarks.flows.stream import stream
from benchmarks.harness import Scenario

SCENARIOS: dict[str, Scenario] = {"batch": batch, "stream": stream}

main = bench_command("flows", SCENARIOS)

if __name__ == "__main__":
    main()
