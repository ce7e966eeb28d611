"""Batches that hold more than a limit of memory: peak and time, without and with the limit."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import polars as pl

from benchmarks.batch.limited import PEAK, SECONDS, WORKS, Job
from benchmarks.drivers import values_of
from benchmarks.harness import (
    OWN,
    Contender,
    Figure,
    Outcome,
    Samples,
    Settings,
    Values,
    progress,
    run_rounds,
)
from benchmarks.peers.contract import PROCESS

LIMIT: Final = "200MiB"
_ROWS = 40_000_000
_PARTS = 8
_TIMEOUT_S = 900.0

Limits: TypeAlias = Sequence[str | None]


def memory(settings: Settings) -> list[Figure]:
    """Return the peaks of groups and of an order, and how much slower the limit makes them."""
    rows = round(_ROWS * settings.scale)
    numbers = settings.directory / "numbers"
    groups = _write_numbers(numbers, rows)
    # Who begins changes with the round.
    orders: Iterator[Limits] = itertools.cycle(((None, LIMIT), (LIMIT, None)))
    contender = Contender(OWN, partial(_measure, numbers, rows, orders))
    outcome = run_rounds([contender], settings, title="memory")
    note = f"{rows:,} rows of 24 bytes in Parquet, {groups:,} groups; the peak of the process, with its libraries"
    return [figure for work in WORKS for figure in _figures(outcome, work, note)]


def _figures(outcome: Outcome, work: str, note: str) -> list[Figure]:
    def of(value: str, limit: str | None) -> Samples:
        return outcome.of(OWN, _name(work, value, limit))

    pairs = zip(of(SECONDS, LIMIT).values, of(SECONDS, None).values, strict=True)
    slower = Samples(tuple(limited / free for limited, free in pairs))
    slower_name = f"{work}: time with the limit over without"
    return [
        Figure(
            f"{work}: peak of memory", of(PEAK, None), "MiB", PROCESS, None, "lower", notes=(note,)
        ),
        Figure(
            *(f"{work}: peak of memory, limit {LIMIT}", of(PEAK, LIMIT), "MiB", PROCESS),
            better="lower",
            notes=(note,),
        ),
        Figure(slower_name, slower, "times", PROCESS, None, "lower", notes=(note,)),
    ]


def _name(work: str, value: str, limit: str | None) -> str:
    return f"{work}/{value}/{limit}"


def _write_numbers(directory: Path, rows: int) -> int:
    """Write ``k, v, w``: about two rows a key, as chance has it, ``v`` counts; return how many keys there are."""
    progress(f"memory: writing {rows:,} rows")
    directory.mkdir()
    chance = np.random.default_rng(0)
    seen = np.zeros(max(1, rows // 2), dtype=np.bool_)
    for part, v in enumerate(np.array_split(np.arange(rows, dtype=np.int64), _PARTS)):
        k = chance.integers(0, len(seen), len(v))
        seen[k] = True
        frame = pl.DataFrame({"k": k, "v": v, "w": chance.random(len(v))})
        frame.write_parquet(directory / f"{part}.parquet")
    return int(seen.sum())


def _measure(numbers: Path, rows: int, orders: Iterator[Limits], place: Path) -> Values:
    limits = next(orders)
    values: dict[str, float] = {}
    for work, limit in itertools.product(WORKS, limits):
        folder = place / "run"
        folder.mkdir()
        job = Job(work, str(numbers), str(folder), rows, limit)
        command = [sys.executable, "-m", "benchmarks.batch.limited", json.dumps(asdict(job))]
        told = values_of(command, timeout_s=_TIMEOUT_S)
        values |= {_name(work, value, limit): told[value] for value in (PEAK, SECONDS)}
        shutil.rmtree(folder)
    return values
