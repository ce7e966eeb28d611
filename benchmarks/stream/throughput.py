"""Count and sum by key in windows of 10 seconds, over 10,000 keys: events a second from the log to the last commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import polars as pl

from benchmarks.drivers import values_of
from benchmarks.harness import (
    OWN,
    Contender,
    Figure,
    Outcome,
    Samples,
    Settings,
    Values,
    run_rounds,
)
from benchmarks.peers.contract import PROCESS
from benchmarks.stream.contract import PEAK, RATE, WINDOWS, Job, Peer
from benchmarks.stream.events import INTEGER, KEYS, STRING, write_events
from benchmarks.stream.every import OURS, PLAIN, wanted
from benchmarks.stream.own import APPEND_S, FILL, SECONDS

Expected: TypeAlias = Mapping[int, pl.DataFrame]

BATCHES = (10_000, 100_000)
TARGETS = {INTEGER: 8e6, STRING: 5e6}
TARGET_MIB = 500e6 / 2**20
_EVENTS = 4_000_000
_EVENTS_QUICK = 20_000
_TIMEOUT_S = 240.0
_WITH_APPEND = "events/s with the append"
_COLUMNS = ["start_us", "key", "hits", "total"]


@dataclass(frozen=True, slots=True)
class Case:
    """Events that lie in files, and what comes out of them, by their number."""

    keys: str
    directory: Path
    expected: Expected
    work: str = WINDOWS

    def job(self, place: Path, events: int) -> Job:
        """Return the work in a directory of its own."""
        source = self.directory / str(events)
        result = str(place / "result")
        return Job(self.work, str(place), str(source), result, keys=self.keys, events=events)


def throughput(settings: Settings) -> list[Figure]:
    """Return rates and memory for integers and for texts as keys."""
    return [figure for keys in (INTEGER, STRING) for figure in _figures(settings, keys)]


def _figures(settings: Settings, keys: str) -> list[Figure]:
    peers = wanted(settings)
    case = case_of(settings, keys, {count_for(settings, peer) for peer in [OURS, *peers]})
    contenders = [Contender(OWN, partial(measure_own, case, BATCHES, count_for(settings, OURS)))]
    contenders += [
        Contender(peer.name, partial(measure_peer, case, peer, count_for(settings, peer)))
        for peer in peers
    ]
    outcome = run_rounds(contenders, settings, title=f"throughput, {keys} keys")
    counts = ", ".join(f"{peer.name} {count_for(settings, peer):,}" for peer in [OURS, *peers])
    note = f"{KEYS:,} keys, windows of 10 s, up to 1 s of disorder; events: {counts}"
    figures = []
    for batch in BATCHES:
        of = f"windows, {keys} keys, micro-batches of {batch}"
        figures += [
            _figure(outcome, f"{RATE}/{batch}", RATE, of, TARGETS[keys], note),
            Figure(
                f"{of}, with the append",
                outcome.of(OWN, f"{_WITH_APPEND}/{batch}"),
                RATE,
                PROCESS,
            ),
        ]
    memory = _figure(
        outcome, f"{PEAK}/{BATCHES[-1]}", PEAK, f"most memory of it, {keys} keys", TARGET_MIB, note
    )
    return [*figures, replace(memory, unit="MiB", better="lower")]


def _figure(outcome: Outcome, own: str, peers: str, name: str, target: float, note: str) -> Figure:
    theirs: dict[str, Samples] = {
        name: outcome.of(name, peers) for name in outcome.names if name != OWN
    }
    return Figure(name, outcome.of(OWN, own), RATE, PROCESS, target, peers=theirs, notes=(note,))


def count_for(settings: Settings, peer: Peer) -> int:
    """Return how many events a system gets."""
    return settings.scaled(min(_EVENTS, peer.events), _EVENTS_QUICK)


def case_of(settings: Settings, keys: str, counts: set[int], work: str = WINDOWS) -> Case:
    """Write the events, and let the plain loop say what comes out of them."""
    directory = settings.directory / f"events-{keys}-{work}"
    expected = {}
    for count in counts:
        write_events(directory / str(count), count, keys)
        place = directory / f"expected-{count}"
        place.mkdir()
        case = Case(keys, directory, {}, work)
        values_of(PLAIN.command(case.job(place, count)), timeout_s=_TIMEOUT_S)
        expected[count] = _result(place / "result")
    return Case(keys, directory, expected, work)


def measure_peer(case: Case, peer: Peer, count: int, place: Path) -> Values:
    """Run a peer in a directory. Raises Unavailable, or RuntimeError if its result is a wrong one."""
    job = case.job(place, count)
    values = values_of(peer.command(job), timeout_s=_TIMEOUT_S)
    _check(case, job)
    return values


def measure_own(case: Case, batches: Sequence[int], count: int, place: Path) -> Values:
    """Fill a log and stream it, once for each size of micro-batches. Raises RuntimeError for a wrong result."""
    values: dict[str, float] = {}
    for batch in batches:
        (place / str(batch)).mkdir()
        job = replace(case.job(place / str(batch), count), batch_events=batch)
        filled = values_of(OURS.command(replace(job, work=FILL)), timeout_s=_TIMEOUT_S)
        streamed = values_of(OURS.command(job), timeout_s=_TIMEOUT_S)
        _check(case, job)
        values[f"{RATE}/{batch}"] = streamed[RATE]
        values[f"{PEAK}/{batch}"] = streamed[PEAK]
        values[f"{_WITH_APPEND}/{batch}"] = count / (filled[APPEND_S] + streamed[SECONDS])
    return values


def _check(case: Case, job: Job) -> None:
    """Compare a result with that of the plain loop. Raises RuntimeError if it is another one."""
    found, expected = _result(Path(job.result)), case.expected[job.events]
    if not found.equals(expected):
        raise RuntimeError(
            f"a wrong result: {found.height:,} rows with {found['hits'].sum():,} events, "
            f"not {expected.height:,} with {expected['hits'].sum():,}, or other values"
        )


def _result(directory: Path) -> pl.DataFrame:
    """Return what was written, Parquet or CSV, in one order."""
    # Spark keeps notes about its files beside them, and empty files are no CSV.
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    files = [path for path in files if "_spark_metadata" not in path.parts and path.stat().st_size]
    parquet = [path for path in files if path.suffix == ".parquet"]
    rows = (
        [pl.read_parquet(path) for path in parquet]
        if parquet
        else [
            pl.read_csv(path, has_header=False, new_columns=_COLUMNS)
            for path in files
            if path.suffix != ".crc"
        ]
    )
    return pl.concat(frame.select(_COLUMNS) for frame in rows).sort("start_us", "key")
