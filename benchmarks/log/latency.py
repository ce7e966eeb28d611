"""From before an append in this process until a consumer in another one holds the event.

Each event carries the time at which its append began, on the clock that both processes share. There is one every two
milliseconds, so none waits for another.
"""

from __future__ import annotations

import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.harness import OWN, Contender, Figure, Settings, Values, run_rounds
from benchmarks.log.own import EVENT_BYTES, Millstream
from benchmarks.peers.contract import PROCESS, Client, Place, System, require
from benchmarks.peers.every import peers
from benchmarks.processes import children, receive
from millstream.primitives.clock import SYSTEM_CLOCK

_MEDIAN, _TAIL = "p50", "p99"
_TARGET_MS = 1.0
_PAUSE_S = 0.002
_WARM_UP_EVENTS = 100
_WARM_UPS = 2


def latency(settings: Settings) -> list[Figure]:
    """Return the median and the 99th percentile of each round, beside the peers that can wake a reader."""
    events = settings.scaled(2_000, 50)
    systems: list[System] = [Millstream(), *peers(settings)]
    contenders = [Contender(system.name, partial(_measure, system, events)) for system in systems]
    outcome = run_rounds(contenders, settings, title="latency")
    note = f"single events, one every {1000 * _PAUSE_S:.0f} ms, {events:,} a round"
    return [
        Figure(
            f"append to consumer in another process, {value}",
            outcome.of(OWN, value),
            "ms",
            PROCESS,
            target,
            "lower",
            peers=outcome.peers(value),
            notes=(note,),
        )
        for value, target in ((_MEDIAN, None), (_TAIL, _TARGET_MS))
    ]


def _measure(system: System, events: int, directory: Path) -> Values:
    require(system, PROCESS, "follow")
    warm_up = _WARM_UPS * _WARM_UP_EVENTS
    total = warm_up + events
    with (
        system.running(directory, PROCESS) as place,
        children(follow, [(system, place, total)]) as [connection],
    ):
        client = system.connect(place)
        try:
            # Joining takes its time, and so does the first read of what was not merged meanwhile: that is when pyarrow
            # looks for pandas. The clock runs for a follower that has caught up twice.
            for _ in range(_WARM_UPS):
                _send(client, _WARM_UP_EVENTS)
                receive(connection)
            _send(client, events)
            waits_ns: list[int] = receive(connection)
        finally:
            client.close()
    measured = sorted(waits_ns[warm_up:])
    return {
        _MEDIAN: measured[len(measured) // 2] / 1e6,
        _TAIL: measured[min(len(measured) - 1, len(measured) * 99 // 100)] / 1e6,
    }


def _send(client: Client, events: int) -> None:
    for _ in range(events):
        now_ns = time.perf_counter_ns()
        client.append(client.prepare([b"%0*d" % (EVENT_BYTES, now_ns)]))
        SYSTEM_CLOCK.wait_s(_PAUSE_S)


def follow(connection: Connection, system: System, place: Place, total: int) -> None:
    """In a child: follow the events and answer how long each was on its way, in ns."""
    client = system.connect(place)
    waits_ns: list[int] = []
    caught_up = {_WARM_UP_EVENTS * (number + 1) for number in range(_WARM_UPS)}

    def take(payload: bytes) -> bool:
        waits_ns.append(time.perf_counter_ns() - int(payload))
        if len(waits_ns) in caught_up:
            connection.send("following")
        return len(waits_ns) < total

    try:
        client.follow(take)
        connection.send(waits_ns)
        connection.recv()
    finally:
        client.close()
