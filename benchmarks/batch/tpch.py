"""Six queries of TPC-H over Parquet files: how long they take, and how much memory, beside other systems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.batch.data import generate, simplify
from benchmarks.batch.driver import MEMORY, PEERS, Job, drive
from benchmarks.batch.sql import QUERIES
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

ALL = "all"
POLARS, DASK, SPARK = "polars", "dask", "pyspark"
_OVER_POLARS_MAX = 1.3
_TIMES_AHEAD_MIN = 5.0
_TOLERANCE = 1e-6


def tpch(settings: Settings) -> list[Figure]:
    """Return the times of the queries, the ratios to the peers, and the peaks of memory."""
    tables = settings.directory / "tables"
    rows = prepared(tables, settings)
    answers = Answers()
    names = [OWN, *filter(settings.wants, PEERS)]
    contenders = [
        Contender(name, partial(_measure, Job(name, str(tables), settings.seconds), answers))
        for name in names
    ]
    outcome = run_rounds(contenders, settings, title=f"TPC-H, scale {settings.scale:g}")
    note = (
        f"scale {settings.scale:g}, {rows:,} rows in four Parquet files, out of the page cache; from the plan "
        "to an answer in memory; each system in a process of its own, after all queries twice to warm up"
    )
    return [
        *(_time_figure(outcome, query, f"{query}, TPC-H", note) for query in QUERIES),
        _time_figure(outcome, ALL, f"the {len(QUERIES)} queries one after the other", note),
        *ratios(outcome),
        _memory_figure(outcome),
    ]


def prepared(tables: Path, settings: Settings) -> int:
    """Make the tables; return how many rows there are in all. Raises Unavailable."""
    progress(f"TPC-H: making the tables of scale {settings.scale:g}")
    raw = settings.directory / "generated"
    for directory in (raw, tables):
        directory.mkdir()
    generate(raw, settings.scale)
    return simplify(raw, tables)


class Answers:
    """The answers that came first, which are ours; those of the others have to be the same."""

    def __init__(self) -> None:
        """Nobody has answered."""
        self._first: dict[str, list[list[Any]]] = {}

    def check(self, query: str, rows: list[list[Any]]) -> None:
        """Raise RuntimeError if the rows are not those of the first answer."""
        first = self._first.setdefault(query, rows)
        fits = len(first) == len(rows) and all(map(_same_row, first, rows))
        if not fits:
            raise RuntimeError(f"{query} has another answer: {rows[:1]} instead of {first[:1]}")


def _same_row(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return len(left) == len(right) and all(map(_same, left, right))


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, str) or isinstance(right, str):
        return str(left) == str(right)
    return math.isclose(left, right, rel_tol=_TOLERANCE)


def _measure(job: Job, answers: Answers, directory: Path) -> Values:
    answer = drive(job, directory)
    for query, rows in answer["rows"].items():
        answers.check(query, rows)
    values: dict[str, float] = answer["values"]
    return values | {ALL: sum(values[query] for query in QUERIES)}


def _time_figure(outcome: Outcome, value: str, name: str, note: str) -> Figure:
    return Figure(
        name, outcome.of(OWN, value), "s", better="lower", peers=outcome.peers(value), notes=(note,)
    )


def ratios(outcome: Outcome) -> list[Figure]:
    """Return the figures that have targets, for the peers that were asked for."""
    figures = []
    if POLARS in outcome.names:
        figures.append(
            Figure(
                "all queries: our time over that of plain Polars",
                _ratio(outcome, OWN, POLARS, ALL, missing=POLARS),
                "times",
                target=_OVER_POLARS_MAX,
                better="lower",
                notes=(_by_query(outcome, OWN, POLARS),),
            )
        )
    for peer in (DASK, SPARK):
        if peer in outcome.names:
            figures.append(
                Figure(
                    f"all queries: the time of {peer} over ours",
                    _ratio(outcome, peer, OWN, ALL, missing=peer),
                    "times",
                    target=_TIMES_AHEAD_MIN,
                    notes=(_by_query(outcome, peer, OWN),),
                )
            )
    return figures


def _ratio(outcome: Outcome, above: str, below: str, value: str, *, missing: str) -> Samples:
    """Return the ratio of each round; none, if the peer did not run."""
    if missing in outcome.reasons:
        return Samples(reason=f"no {missing} was measured")
    pairs = zip(outcome.of(above, value).values, outcome.of(below, value).values, strict=True)
    return Samples(tuple(a / b for a, b in pairs))


def _by_query(outcome: Outcome, above: str, below: str) -> str:
    shown: Mapping[str, float | None] = {
        query: _ratio(outcome, above, below, query, missing=below if above == OWN else above).median
        for query in QUERIES
    }
    text = ", ".join(f"{query} {ratio:.2f}" for query, ratio in shown.items() if ratio is not None)
    return f"by query: {text or 'none'}"


def _memory_figure(outcome: Outcome) -> Figure:
    return Figure(
        "peak of resident memory",
        outcome.of(OWN, MEMORY),
        "MiB",
        better="lower",
        peers=outcome.peers(MEMORY),
        notes=(
            "after all queries; the peaks of a system's processes added up: Dask has a scheduler and two workers, "
            "pyspark a virtual machine that may take 4 GiB",
        ),
    )
