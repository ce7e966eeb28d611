"""From before an append until another process holds what a flow made of the event, at 10,000 events a second.

A window gives nothing before it closes, so this is a flow without one: a filter and a column.

    millstream   appender ─> topic ─> stream ─> topic ─> consumer              three processes, two commits
    a peer       sender ─> socket ─> stream ─> socket ─> receiver              three processes, nothing is kept

Each event carries the time at which its append, or its sending, began, on the clock that all processes share. About ten
go together, all that have become due in a millisecond; who falls behind sends more at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks.harness import OWN, Contender, Figure, Settings, Values, run_rounds
from benchmarks.peers.contract import DISK, PROCESS
from benchmarks.processes import children, receive
from benchmarks.programs import free_port, programs, tail
from benchmarks.stream.contract import RELAY, Job, Peer
from benchmarks.stream.every import wanted
from benchmarks.stream.relay import Ends, LineEnds, TopicEnds, collect, send, stream

MEDIAN, TAIL = "p50", "p99"
TARGETS = {(MEDIAN, PROCESS): 2.0, (TAIL, PROCESS): 10.0, (MEDIAN, DISK): None, (TAIL, DISK): 20.0}
_EVENTS = 50_000
_WARM_UP_EVENTS = 10_000
_WARM_UPS = 2


def latency(settings: Settings) -> list[Figure]:
    """Return median and 99th percentile, by durability, beside the peers."""
    return [*_figures(settings, PROCESS), *_figures(settings, DISK)]


def _figures(settings: Settings, durability: str) -> list[Figure]:
    events = settings.scaled(_EVENTS, 500)
    warm_up = settings.scaled(_WARM_UP_EVENTS, 200)
    waves = [warm_up] * _WARM_UPS + [events]
    contenders = [Contender(OWN, partial(_measure_own, waves, durability))]
    if durability == PROCESS:
        contenders += [
            Contender(peer.name, partial(_measure, waves, peer))
            for peer in wanted(settings)
            if peer.relays
        ]
    outcome = run_rounds(contenders, settings, title=f"latency, {durability}")
    notes = [f"a filter and a column, {events:,} events at 10,000 a second, three processes"]
    if len(contenders) > 1:
        notes.append(
            "the peers keep nothing: events and results go through sockets. Not flink, whose Python has none"
        )
    return [
        Figure(
            f"append to result in another process, {value}, {durability}",
            outcome.of(OWN, value),
            "ms",
            durability,
            TARGETS[value, durability],
            "lower",
            peers=outcome.peers(value),
            notes=notes,
        )
        for value in (MEDIAN, TAIL)
    ]


def _measure_own(waves: Sequence[int], durability: str, place: Path) -> Values:
    ends = TopicEnds(place / "bench.mill", durability)
    with ends.app() as app:
        ends.topics(app)
    return _flow_through(ends, waves, children(stream, [(ends,)]))


def _measure(waves: Sequence[int], peer: Peer, place: Path) -> Values:
    ends = LineEnds(free_port(), free_port())
    job = Job(RELAY, str(place), ports=(ends.source_port, ends.sink_port))
    log = place / "peer.log"
    try:
        return _flow_through(ends, waves, programs([peer.command(job)], log))
    except RuntimeError as error:
        error.add_note(tail(log))
        raise


def _flow_through(
    ends: Ends, waves: Sequence[int], between: AbstractContextManager[object]
) -> Values:
    with (
        children(collect, [(ends, waves)]) as [collecting],
        children(send, [(ends,)]) as [sending],
    ):
        for child in (collecting, sending):
            receive(child)
        with between:
            first, waits_ns = 0, [0]
            for count in waves:
                sending.send((first, count))
                first += count
                waits_ns, wrong = receive(collecting)
                if wrong:
                    raise RuntimeError(wrong)
    waits_ns.sort()
    return {
        MEDIAN: waits_ns[len(waits_ns) // 2] / 1e6,
        TAIL: waits_ns[min(len(waits_ns) - 1, len(waits_ns) * 99 // 100)] / 1e6,
    }
