"""All peers, in the order of the table."""

from __future__ import annotations

from benchmarks.harness import Settings
from benchmarks.peers.contract import System
from benchmarks.peers.honker_stream import HonkerStream
from benchmarks.peers.lite_queue import LiteQueuePeer
from benchmarks.peers.persist_queue import PersistQueuePeer
from benchmarks.peers.redis_streams import RedisStreams
from benchmarks.peers.sqlite_rows import SqliteRows


def peers(settings: Settings) -> list[System]:
    """Return every peer, or none if none are wanted."""
    if not settings.with_peers:
        return []
    return [SqliteRows(), RedisStreams(), HonkerStream(), LiteQueuePeer(), PersistQueuePeer()]
