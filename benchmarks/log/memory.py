"""Memory while gigabytes flow through a topic with retention: one process appends, another consumes.

Each process looks at its own resident memory as it goes. What counts is how much it grows after the first tenth.
"""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa

from benchmarks.harness import (
    OWN,
    Contender,
    Figure,
    Settings,
    Unavailable,
    Values,
    progress,
    run_rounds,
)
from benchmarks.log.own import EVENT_BYTES, open_topic, payloads
from benchmarks.peers.contract import PROCESS, Place
from benchmarks.processes import children, receive

_BATCH_EVENTS = 10_000
_RETENTION_BYTES = 256 * 2**20
_DISK_NEEDED_BYTES = 12 * _RETENTION_BYTES
_GROWTH_MAX_MIB = 64.0
_WARM_UP_PART = 10
_LOOK_EVERY_BATCHES = 20
_MIB = 2**20
_APPENDER, _CONSUMER, _STORE, _RATE, _SKIPPED = "appender", "consumer", "store", "rate", "skipped"


def memory(settings: Settings) -> list[Figure]:
    """Return the growth of both processes and the largest size of the store."""
    total_bytes = settings.scaled(10 * 10**9, 20 * 10**6)
    once = Settings(settings.directory, rounds=1, quick=settings.quick)
    contender = Contender(OWN, partial(_measure, total_bytes))
    outcome = run_rounds([contender], once, title=f"{total_bytes / 1e9:.0f} GB flow through")
    size = f"{total_bytes / 1e9:g} GB"
    skipped = outcome.of(OWN, _SKIPPED).median or 0.0
    note = (
        f"{size} of 100-byte events in batches of {_BATCH_EVENTS:,}, retention_bytes = "
        f"{_RETENTION_BYTES // _MIB} MiB; growth of resident memory after the first tenth"
    )
    return [
        Figure(
            f"growth of the appender's memory, {size}",
            outcome.of(OWN, _APPENDER),
            "MiB",
            PROCESS,
            _GROWTH_MAX_MIB,
            "lower",
            notes=(note,),
        ),
        Figure(
            f"growth of the consumer's memory, {size}",
            outcome.of(OWN, _CONSUMER),
            "MiB",
            PROCESS,
            _GROWTH_MAX_MIB,
            "lower",
            notes=(f"retention deleted {skipped:,.0f} events before the consumer came to them",),
        ),
        Figure("largest store on the way", outcome.of(OWN, _STORE), "MiB", PROCESS, better="lower"),
        Figure("append while it is consumed", outcome.of(OWN, _RATE), "events/s", PROCESS),
    ]


def _measure(total_bytes: int, directory: Path) -> Values:
    free = shutil.disk_usage(directory).free
    if free < _DISK_NEEDED_BYTES:
        raise Unavailable(f"needs {_DISK_NEEDED_BYTES >> 30} GiB of free disk, has {free >> 30}")
    place = Place(directory, PROCESS)
    app, topic = open_topic(place, retention_bytes=_RETENTION_BYTES)
    try:
        batches = max(2 * _LOOK_EVERY_BATCHES, total_bytes // (_BATCH_EVENTS * EVENT_BYTES))
        with children(consume, [(place, batches * _BATCH_EVENTS)]) as [connection]:
            receive(connection)
            batch = pa.table({"payload": pa.array(payloads(_BATCH_EVENTS), pa.binary())})
            sizes, stores = [], []
            began = time.perf_counter()
            for number in range(batches):
                topic.append(batch)
                if number % _LOOK_EVERY_BATCHES == 0:
                    progress(f"{number * _BATCH_EVENTS * EVENT_BYTES / 1e9:.1f} GB")
                    sizes.append(resident_bytes())
                    stores.append(_size_bytes(place.directory))
            elapsed = time.perf_counter() - began
            consumer_sizes, skipped = receive(connection)
    finally:
        app.close()
    return {
        _APPENDER: growth_mib(sizes),
        _CONSUMER: growth_mib(consumer_sizes),
        _STORE: max(stores) / _MIB,
        _RATE: batches * _BATCH_EVENTS / elapsed,
        _SKIPPED: skipped,
    }


def consume(connection: Connection, place: Place, end: int) -> None:
    """In a child: consume up to an offset; answer with the own sizes on the way, and what retention took."""
    app, topic = open_topic(place, retention_bytes=_RETENTION_BYTES)
    sizes: list[int] = []
    try:
        with topic.consume(group="reader") as consumer:
            connection.send("ready")
            for batch in consumer:
                sizes.append(resident_bytes())
                if batch.next_offset >= end:
                    break
            connection.send((sizes, consumer.skipped))
        connection.recv()
    finally:
        app.close()


def growth_mib(sizes: list[int]) -> float:
    """Return by how much the largest size after the first tenth exceeds that of the first tenth."""
    warm = max(1, len(sizes) // _WARM_UP_PART)
    later = sizes[warm:] or sizes[-1:]
    return max(0.0, (max(later) - max(sizes[:warm])) / _MIB)


def resident_bytes() -> int:
    """Return the resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _size_bytes(directory: Path) -> int:
    size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                size += os.stat(os.path.join(folder, name)).st_size  # noqa: PTH116, PTH118 - often
            except FileNotFoundError:
                continue  # retention removed it in between
    return size
