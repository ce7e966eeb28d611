"""What the tests of the local log share: topics of numbers, and looks at what is stored."""

from __future__ import annotations

from typing import Any

from millstream.engines.local.append import stage
from millstream.engines.local.log import LocalLog
from millstream.log.batching import BatchingPolicy, batching_policy
from millstream.log.definition import TopicInfo, topic_spec
from millstream.store.catalog import Row

AT_ONCE = batching_policy(linger="0s")
"""A producer that sends whatever there is: for clocks that stand still."""
NEVER: BatchingPolicy = batching_policy(linger="1d")
"""A producer that sends when it is flushed or full."""


def make(log: LocalLog, name: str = "numbers", **changes: Any) -> TopicInfo:
    """Make a topic of numbers, one partition, no key."""
    settings: dict[str, Any] = {
        "schema": {"n": int},
        "key": None,
        "partitions": 1,
        "retention": None,
        "retention_bytes": None,
        "compaction": False,
    }
    return log.create_topic(topic_spec(name, **{**settings, **changes}))


def append_singly(log: LocalLog, info: TopicInfo, rows: list[dict[str, Any]]) -> None:
    """Append each event as a frame of its own, all in one transaction: thousands in a moment."""
    encoder, now_us = log.encoder(info), log.store.clock.now_us()
    parts = [part for row in rows for part in encoder.encode(row, now_us)]
    log.store.write(stage(log.store, info, parts).apply)


def frames(log: LocalLog, info: TopicInfo, partition: int = 0) -> list[Row]:
    """Return the rows of all frames of a partition."""
    with log.store.read() as snapshot:
        return snapshot.run("log/frames_from", (info.partition_ids[partition], 0, -1))


def read_rows(
    log: LocalLog, info: TopicInfo, partition: int = 0, **limits: Any
) -> list[tuple[int, int, dict[str, Any]]]:
    """Return (offset, time of the append, event) of all that a partition holds."""
    offset, end = log.ends(info)[partition]
    found: list[tuple[int, int, dict[str, Any]]] = []
    while offset < end:
        batch = log.read(info, partition, offset, **limits)
        assert batch is not None, f"nothing at {offset}, and the end is {end}"
        assert batch.first_offset == offset < batch.next_offset
        found += zip(
            batch.offsets().tolist(), batch.appended_us().tolist(), batch.to_pylist(), strict=True
        )
        offset = batch.next_offset
    return found


def numbers(log: LocalLog, info: TopicInfo, partition: int = 0) -> list[int]:
    """Return the numbers of a partition, in order."""
    return [row["n"] for _, _, row in read_rows(log, info, partition)]
