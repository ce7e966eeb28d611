"""Redis streams: XADD to a server on this machine.

Disk is ``appendfsync always``, process is ``appendfsync no`` (an append-only file that the system writes back when it
likes: it survives a kill of the server). A batch is one pipeline, sent and answered at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.contract import DISK, Client, Place, Take, installed
from benchmarks.peers.redis_server import redis_server

_STREAM = "events"
_PAGE_EVENTS = 1_000
_WAIT_MS = 1_000


@dataclass(frozen=True, slots=True)
class RedisStreams:
    """A stream of redis."""

    name: str = "redis streams"
    shares_client: bool = False

    @property
    def cannot(self) -> Mapping[str, str]:
        """It can do all of it."""
        return {}

    @contextmanager
    def running(self, directory: Path, durability: str) -> Iterator[Place]:
        """Start a server."""
        installed("redis")
        with redis_server(directory, appendfsync="always" if durability == DISK else "no") as port:
            yield Place(directory, durability, port)

    def connect(self, place: Place) -> Client:
        """Connect to it."""
        return _RedisClient(place)


class _RedisClient:
    def __init__(self, place: Place) -> None:
        self._redis = installed("redis").Redis(host="127.0.0.1", port=place.port)

    def prepare(self, payloads: Sequence[bytes]) -> list[dict[bytes, bytes]]:
        """Return the fields of each event."""
        return [{b"payload": payload} for payload in payloads]

    def append(self, prepared: list[dict[bytes, bytes]]) -> None:
        """XADD, several in a pipeline."""
        if len(prepared) == 1:
            self._redis.xadd(_STREAM, prepared[0])
            return
        pipeline = self._redis.pipeline(transaction=False)
        for fields in prepared:
            pipeline.xadd(_STREAM, fields)
        pipeline.execute()

    def read(self) -> int:
        """XRANGE in pages, as Python objects."""
        events, after = 0, b"-"
        while True:
            page = self._redis.xrange(_STREAM, min=after, max=b"+", count=_PAGE_EVENTS)
            events += len(page)
            if len(page) < _PAGE_EVENTS:
                return events
            after = b"(" + page[-1][0]

    def follow(self, take: Take) -> None:
        """XREAD that blocks."""
        after = b"0"
        while True:
            for _, page in self._redis.xread({_STREAM: after}, block=_WAIT_MS):
                for identity, fields in page:
                    if not take(fields[b"payload"]):
                        return
                    after = identity

    def close(self) -> None:
        """Disconnect."""
        self._redis.close()
