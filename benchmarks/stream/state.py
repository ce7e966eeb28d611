"""A function of Python that keeps a count and a sum for each of 10,000 keys: events a second to the last commit."""

from __future__ import annotations

from functools import partial

from benchmarks.harness import OWN, Contender, Figure, Settings, run_rounds
from benchmarks.peers.contract import PROCESS
from benchmarks.stream.contract import RATE, STATE, TELL_EVERY
from benchmarks.stream.events import INTEGER, KEYS
from benchmarks.stream.every import OURS, wanted
from benchmarks.stream.throughput import case_of, count_for, measure_own, measure_peer

_TARGET = 600e3
_BATCH_EVENTS = 100_000


def state(settings: Settings) -> list[Figure]:
    """Return the rate beside those that can do the same."""
    peers = [peer for peer in wanted(settings) if peer.remembers]
    counts = {count_for(settings, peer) // 2 for peer in [OURS, *peers]}
    case = case_of(settings, INTEGER, counts, STATE)
    own = partial(measure_own, case, [_BATCH_EVENTS], count_for(settings, OURS) // 2)
    contenders = [Contender(OWN, own)]
    contenders += [
        Contender(peer.name, partial(measure_peer, case, peer, count_for(settings, peer) // 2))
        for peer in peers
    ]
    outcome = run_rounds(contenders, settings, title="state of a function")
    note = (
        f"{KEYS:,} keys; a row for every {TELL_EVERY} events of a key; events come as they arrive, in micro-batches "
        f"of {_BATCH_EVENTS:,}; the peers keep nothing"
    )
    return [
        Figure(
            "state that a Python function keeps of each key",
            outcome.of(OWN, f"{RATE}/{_BATCH_EVENTS}"),
            RATE,
            PROCESS,
            _TARGET,
            peers={peer.name: outcome.of(peer.name, RATE) for peer in peers},
            notes=(note,),
        )
    ]
