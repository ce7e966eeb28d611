"""``python -m benchmarks.log``."""

from __future__ import annotations

from benchmarks.command import bench_command
from benchmarks.harness import Scenario
from benchmarks.log.append import appends
from benchmarks.log.concurrent import eight_processes, eight_threads
from benchmarks.log.latency import latency
from benchmarks.log.memory import memory
from benchmarks.log.reading import reading
from benchmarks.log.singles import singles_against_floor

SCENARIOS: dict[str, Scenario] = {
    "append": appends,
    "floor": singles_against_floor,
    "threads": eight_threads,
    "processes": eight_processes,
    "read": reading,
    "latency": latency,
    "memory": memory,
}

main = bench_command("log", SCENARIOS)

if __name__ == "__main__":
    main()
