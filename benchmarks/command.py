"""The command line of every benchmark: ``python -m benchmarks.<name>``."""

from __future__ import annotations

import fnmatch
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks import machine
from benchmarks.harness import ROOT, ROUNDS, Figure, Scenario, Settings
from benchmarks.report import as_json, print_table

_QUICK: Mapping[str, Any] = {"rounds": 1, "seconds": 0.05, "warm_up_s": 0.02}
_EXPLAINED = (
    "First the median of the rounds, then their smallest and largest. In a round all take turns, each in a fresh "
    "directory on one disk, with Python's garbage collector as it is by default.",
    "durability=process: what was acknowledged survives kill -9; durability=disk: a power loss, too.",
    "How each peer reaches that, and what a batch is to it, stands at the top of its file in benchmarks/peers.",
)


def bench_command(
    bench: str, scenarios: Mapping[str, Scenario], *, rounds_usual: int = ROUNDS
) -> click.Command:
    """Return the command that runs these scenarios and prints their figures."""

    @click.command(help=f"Run the benchmark {bench}: a table, and last one line of JSON.")
    @click.option(
        "--quick", is_flag=True, help="A smoke test of seconds; its figures mean nothing."
    )
    @click.option("--only", default="*", help=f"Scenarios, as a pattern: {', '.join(scenarios)}.")
    @click.option("--rounds", type=click.IntRange(min=1), help="How often all take turns.")
    @click.option("--seconds", type=float, help="How long each measurement takes.")
    @click.option("--peers/--no-peers", default=True, help="Run the peers, too.")
    @click.option("--against", default="*", help="Only the peers that fit this pattern.")
    @click.option(
        "--directory", type=click.Path(path_type=Path), help="A directory on the disk to measure."
    )
    def command(
        *,
        quick: bool,
        only: str,
        rounds: int | None,
        seconds: float | None,
        peers: bool,
        against: str,
        directory: Path | None,
    ) -> None:
        chosen = {name: run for name, run in scenarios.items() if fnmatch.fnmatch(name, only)}
        if not chosen:
            raise click.UsageError(f"--only {only} fits none of: {', '.join(scenarios)}")
        parent = directory or ROOT / "build"
        parent.mkdir(parents=True, exist_ok=True)
        if machine.is_in_memory(parent) and not quick:
            raise click.UsageError(f"{parent} lies in memory: give --directory on a real disk")
        # Stop servers and remove directories also when the benchmark is told to end.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        place = Path(tempfile.mkdtemp(prefix=f"bench-{bench}-", dir=parent))
        try:
            scale = dict(_QUICK) if quick else {"rounds": rounds_usual}
            asked = {"rounds": rounds, "seconds": seconds}
            scale = scale | {name: value for name, value in asked.items() if value is not None}
            settings = Settings(place, quick=quick, with_peers=peers, against=against, **scale)
            _run(bench, chosen, settings)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    return command


def _run(bench: str, scenarios: Mapping[str, Scenario], settings: Settings) -> None:
    before = machine.load()
    figures: list[Figure] = []
    for name, scenario in scenarios.items():
        if not sys.stderr.isatty():
            print(f"{bench}: {name}", file=sys.stderr, flush=True)
        figures.extend(scenario(settings))
    here = machine.describe(settings.directory)
    notes = [*_EXPLAINED, f"load average before: {before}; after: {machine.load()}"]
    if settings.quick:
        notes.append("A quick run: these figures mean nothing.")
    print_table(bench, here, figures, notes)
    print(as_json(bench, here, figures, notes))
