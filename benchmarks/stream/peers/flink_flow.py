"""PyFlink's SQL in this process's own cluster, two slots, no checkpoints as by default: a crash loses everything.

It makes the same events itself, from their numbers, and reads no file, which favours it. It writes CSV. A small query
runs first; what a query takes to start is counted, as it is for the others.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Values
from benchmarks.peers.contract import installed
from benchmarks.stream.contract import PEAK, RATE, WINDOWS, Job, answer, peak_mib
from benchmarks.stream.events import (
    DISORDER_FACTOR,
    DISORDER_US,
    INTEGER,
    KEY_FACTOR,
    KEY_MODULUS,
    KEYS,
    START_US,
    STEP_US,
    VALUES,
)

_WARM_UP_EVENTS = 1_000
_SETTINGS = {
    "parallelism.default": "2",
    "table.local-time-zone": "UTC",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "100 ms",
    "table.exec.mini-batch.size": "10000",
}


def windows(job: Job) -> Values:
    """Count and sum by key and window."""
    table = installed("pyflink.table")
    session = table.TableEnvironment.create(table.EnvironmentSettings.in_streaming_mode())
    for name, value in _SETTINGS.items():
        session.get_config().set(name, value)
    _run(session, "warm", _WARM_UP_EVENTS, job.keys, Path(job.place) / "warm")
    began = time.perf_counter()
    _run(session, "measured", job.events, job.keys, Path(job.result))
    return {RATE: job.events / (time.perf_counter() - began), PEAK: peak_mib()}


def _run(session: Any, name: str, events: int, keys: str, result: Path) -> None:
    number = f"MOD(MOD(i * {KEY_FACTOR}, {KEY_MODULUS}), {KEYS})"
    is_integer = keys == INTEGER
    key = number if is_integer else f"'user-' || LPAD(CAST({number} AS STRING), 6, '0')"
    micros = f"{START_US} + i * {STEP_US} - MOD(i * {DISORDER_FACTOR}, {DISORDER_US})"
    session.execute_sql(
        f"""CREATE TABLE events_{name} (
            i BIGINT, key AS {key}, v AS MOD(i, {VALUES}),
            moment AS TO_TIMESTAMP_LTZ(({micros}) / 1000, 3),
            WATERMARK FOR moment AS moment - INTERVAL '1' SECOND
        ) WITH ('connector' = 'datagen', 'rows-per-second' = '1000000000', 'fields.i.kind' = 'sequence',
            'fields.i.start' = '0', 'fields.i.end' = '{events - 1}')"""
    )
    session.execute_sql(
        f"""CREATE TABLE results_{name} (
            start_us BIGINT, key {"BIGINT" if is_integer else "STRING"}, hits BIGINT, total BIGINT
        ) WITH ('connector' = 'filesystem', 'path' = '{result.as_uri()}', 'format' = 'csv')"""
    )
    session.execute_sql(
        f"""INSERT INTO results_{name}
        SELECT TIMESTAMPDIFF(SECOND, TIMESTAMP '1970-01-01 00:00:00', window_start) * CAST(1000000 AS BIGINT),
            key, COUNT(*), SUM(v)
        FROM TABLE(TUMBLE(TABLE events_{name}, DESCRIPTOR(moment), INTERVAL '10' SECOND))
        GROUP BY window_start, window_end, key"""
    ).wait()


if __name__ == "__main__":
    answer({WINDOWS: windows})
