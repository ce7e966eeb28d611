"""``python -m benchmarks.tasks``."""

from __future__ import annotations

from benchmarks.command import bench_command
from benchmarks.harness import Scenario
from benchmarks.tasks.round_trip import round_trip
from benchmarks.tasks.throughput import done, sent

SCENARIOS: dict[str, Scenario] = {"send": sent, "done": done, "roundtrip": round_trip}

main = bench_command("tasks", SCENARIOS)

if __name__ == "__main__":
    main()
