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
    """Return every peer that is wanted."""
    known: list[System] = [
        SqliteRows(),
        RedisStreams(),
        HonkerStream(),
        LiteQueuePeer(),
        PersistQueuePeer(),
    ]
    return [peer for peer in known if settings.wants(peer.name)]
