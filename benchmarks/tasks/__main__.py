"""``python -m benchmarks.tasks``."""

from __future__ import annotations

from benchmarks.command import bench_command
from benchmarks.harness import Scenario
from benchmarks.tasks.throughput import busy, queues
from benchmarks.tasks.waiting import idle, waiting

SCENARIOS: dict[str, Scenario] = {
    "queues": queues,
    "busy": busy,
    "waiting": waiting,
    "idle": idle,
}

main = bench_command("tasks", SCENARIOS, rounds_usual=3)

if __name__ == "__main__":
    main()
