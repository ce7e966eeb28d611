"""The command line of every benchmark: ``python -m benchmarks.<name>``."""

from __future__ import annotations

import fnmatch
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import machine
from benchmarks.harness import ROOT, ROUNDS, Figure, Scenario, Settings
from benchmarks.report import as_json, print_table

_QUICK: Mapping[str, Any] = {"rounds": 1, "seconds": 0.05, "warm_up_s": 0.02}
_EXPLAINED = (
    "First the median of the rounds, then their smallest and largest. In a round all take turns, each in a fresh "
    "directory on one disk, with Python's garbage collector as it is by default."
)
_DURABILITY = (
    "durability=process: what was acknowledged survives kill -9; durability=disk: a power loss, too.",
    "How each peer reaches that, and what a batch is to it, stands at the top of its file in benchmarks/peers.",
)


def bench_command(
    bench: str,
    scenarios: Mapping[str, Scenario],
    *,
    rounds_usual: int = ROUNDS,
    scale_quick: float | None = None,
    explained: Sequence[str] = _DURABILITY,
) -> click.Command:
    """Return the command that runs these scenarios and prints their figures.

    With ``scale_quick``, the scale of a smoke test, it has an option for the scale of the data. ``explained`` is what
    has to be known to read the figures, beside how rounds are made.
    """
    scaled = click.option("--scale", type=float, help="How large the data is; 1 unless said.")

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
        scale: float | None = None,
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
            amounts: dict[str, Any] = dict(_QUICK) if quick else {"rounds": rounds_usual}
            if quick and scale_quick is not None:
                amounts["scale"] = scale_quick
            asked = {"rounds": rounds, "seconds": seconds, "scale": scale}
            amounts |= {name: value for name, value in asked.items() if value is not None}
            settings = Settings(place, quick=quick, with_peers=peers, against=against, **amounts)
            _run(bench, chosen, settings, explained)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    return command if scale_quick is None else scaled(command)


def _run(
    bench: str, scenarios: Mapping[str, Scenario], settings: Settings, explained: Sequence[str]
) -> None:
    before = machine.load()
    figures: list[Figure] = []
    for name, scenario in scenarios.items():
        if not sys.stderr.isatty():
            print(f"{bench}: {name}", file=sys.stderr, flush=True)
        figures.extend(scenario(settings))
    here = machine.describe(settings.directory)
    notes = [_EXPLAINED, *explained, f"load average before: {before}; after: {machine.load()}"]
    if settings.quick:
        notes.append("A quick run: these figures mean nothing.")
    print_table(bench, here, figures, notes)
    print(as_json(bench, here, figures, notes))
