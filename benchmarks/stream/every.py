"""All peers, in the order of the table."""

from __future__ import annotations

from benchmarks.harness import OWN, Settings
from benchmarks.stream.contract import Peer

PLAIN = Peer("plain Python", "peers.plain_loop", remembers=True)
OURS = Peer(OWN, "own")
PEERS = (
    PLAIN,
    Peer("bytewax", "peers.bytewax_flow", "bytewax", events=1_000_000, remembers=True),
    Peer("pathway", "peers.pathway_flow", "pathway", events=1_000_000),
    Peer("pyspark", "peers.spark_flow", "pyspark"),
    Peer("flink", "peers.flink_flow", "flink", relays=False),
)


def wanted(settings: Settings) -> list[Peer]:
    """Return the peers that are to be measured."""
    return [peer for peer in PEERS if settings.wants(peer.name)]
