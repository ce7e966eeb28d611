"""millstream as one of the systems: a topic with one column of bytes, one partition, through the public API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

import millstream as ms
from benchmarks.harness import OWN
from benchmarks.peers.contract import Client, Place, Take

EVENT_BYTES = 100
PAYLOADS_KEPT = 1_000


def payloads(count: int) -> list[bytes]:
    """Return so many different events of 100 bytes of text (the same 1,000 again and again)."""
    kept = [b"%099d\n" % number for number in range(min(count, PAYLOADS_KEPT))]
    return [kept[number % PAYLOADS_KEPT] for number in range(count)]


def open_topic(
    place: Place, *, retention_bytes: int | None = None, topic: str = "events"
) -> tuple[ms.App, ms.Topic]:
    """Open the store of a place, and its topic."""
    app = ms.App("bench", store=place.directory / "bench.mill", durability=place.durability)
    return app, app.topic(topic, schema={"payload": bytes}, retention_bytes=retention_bytes)


@dataclass(frozen=True, slots=True)
class Millstream:
    """Our log; batches are given as RecordBatches, or as lists of dicts. A single event is a dict."""

    as_dicts: bool = False
    name: str = OWN
    shares_client: bool = True

    @property
    def cannot(self) -> Mapping[str, str]:
        """It can do all of it."""
        return {}

    @contextmanager
    def running(self, directory: Path, durability: str) -> Iterator[Place]:
        """Make the store and the topic."""
        place = Place(directory, durability)
        with closing(self.connect(place)):
            yield place

    def connect(self, place: Place) -> Client:
        """Open the store."""
        return _Client(place, as_dicts=self.as_dicts)


class _Client:
    def __init__(self, place: Place, *, as_dicts: bool) -> None:
        self._app, self._topic = open_topic(place)
        self._as_dicts = as_dicts
        assert self._topic.info.partitions == 1

    def prepare(self, payloads: Sequence[bytes]) -> Any:
        """Return a dict, a list of dicts or a RecordBatch."""
        if len(payloads) == 1:
            return {"payload": payloads[0]}
        if self._as_dicts:
            return [{"payload": payload} for payload in payloads]
        return pa.record_batch([pa.array(payloads, pa.binary())], schema=self._topic.schema)

    def append(self, prepared: Any) -> None:
        """Append it."""
        self._topic.append(prepared)

    def read(self) -> int:
        """Read it all as Arrow tables."""
        return sum(batch.table.num_rows for batch in self._topic.batches())

    def follow(self, take: Take) -> None:
        """Consume in a group of its own that commits its place by itself."""
        with self._topic.consume(group="followers") as consumer:
            for batch in consumer:
                for payload in batch.data.column("payload").to_pylist():
                    if not take(payload):
                        return

    def close(self) -> None:
        """Close the store."""
        self._app.close()
