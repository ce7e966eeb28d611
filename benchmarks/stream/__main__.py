"""``python -m benchmarks.stream``."""

from __future__ import annotations

from benchmarks.command import bench_command
from benchmarks.harness import Scenario
from benchmarks.stream.flights import flights
from benchmarks.stream.latency import latency
from benchmarks.stream.state import state
from benchmarks.stream.throughput import throughput
from benchmarks.stream.workers import workers

SCENARIOS: dict[str, Scenario] = {
    "throughput": throughput,
    "workers": workers,
    "state": state,
    "latency": latency,
    "flights": flights,
}

main = bench_command("stream", SCENARIOS, rounds_usual=3)

if __name__ == "__main__":
    main()
