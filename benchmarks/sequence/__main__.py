"""``python -m benchmarks.sequence``."""

from __future__ import annotations

from benchmarks.command import bench_command
from benchmarks.harness import Scenario
from benchmarks.sequence.order import order

SCENARIOS: dict[str, Scenario] = {"order": order}

main = bench_command(
    "sequence",
    SCENARIOS,
    explained=(
        "A rate is events by the time of one processor core that the process took, so other programs do not count.",
        "Events lie in memory, as each takes them; nothing is kept on disk.",
    ),
)

if __name__ == "__main__":
    main()
