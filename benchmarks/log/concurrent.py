"""Eight appenders at once that share syncs, beside one alone: threads of one process, and processes.

One and eight alternate in the same store, so that both see the same disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.harness import (
    OWN,
    Contender,
    Figure,
    Settings,
    Values,
    count_during,
    run_rounds,
)
from benchmarks.log.own import Millstream, payloads
from benchmarks.peers.contract import DISK, Client, Place, System, require
from benchmarks.peers.every import peers
from benchmarks.processes import children, receive

APPENDERS = 8
_TURNS = 4
_ONE, _ALL, _RATIO = "one", "all", "ratio"
_TARGET = 4.0

Run = Callable[[int, float], float]
"""Lets so many append for so many seconds, and returns events per second of all of them together."""


def eight_threads(settings: Settings) -> list[Figure]:
    """Return the rate of eight threads over that of one, and the rate itself beside the peers'."""
    systems: list[System] = [Millstream(), *peers(settings)]
    contenders = [
        Contender(system.name, partial(_measure_threads, system, settings)) for system in systems
    ]
    outcome = run_rounds(contenders, settings, title="eight threads")
    return [
        Figure(
            "8 appending threads over 1, single events",
            outcome.of(OWN, _RATIO),
            "times the rate",
            DISK,
            _TARGET,
            peers=outcome.peers(_RATIO),
        ),
        Figure(
            "8 appending threads, single events",
            outcome.of(OWN, _ALL),
            "events/s",
            DISK,
            peers=outcome.peers(_ALL),
        ),
    ]


def eight_processes(settings: Settings) -> list[Figure]:
    """Return the rate of eight processes over that of one, and the rate itself."""
    contender = Contender(OWN, partial(_measure_processes, settings))
    outcome = run_rounds([contender], settings, title="eight processes")
    ratio, together = outcome.of(OWN, _RATIO), outcome.of(OWN, _ALL)
    name = f"{_processes(settings)} appending processes"
    return [
        Figure(f"{name} over 1, single events", ratio, "times the rate", DISK),
        Figure(f"{name}, single events", together, "events/s", DISK),
    ]


def _processes(settings: Settings) -> int:
    # Each takes a second to start, which a smoke test does not have.
    return settings.scaled(APPENDERS, 2)


def _one_and_all(run: Run, settings: Settings, count: int = APPENDERS) -> Values:
    run(count, settings.warm_up_s)
    slice_s = settings.seconds / _TURNS
    one = together = 0.0
    for _ in range(_TURNS):
        one += run(1, slice_s) / _TURNS
        together += run(count, slice_s) / _TURNS
    return {_ONE: one, _ALL: together, _RATIO: together / one}


# ---- threads ------------------------------------------------------------------------------------


def _measure_threads(system: System, settings: Settings, directory: Path) -> Values:
    require(system, DISK, "threads")
    with system.running(directory, DISK) as place, _clients(system, place) as clients:
        return _one_and_all(partial(_run_threads, clients), settings)


@contextmanager
def _clients(system: System, place: Place) -> Iterator[list[Client]]:
    opened: list[Client] = []
    try:
        for _ in range(1 if system.shares_client else APPENDERS):
            opened.append(system.connect(place))
        yield (opened * APPENDERS)[:APPENDERS]
    finally:
        for client in opened:
            client.close()


def _run_threads(clients: Sequence[Client], count: int, seconds: float) -> float:
    rates: list[float] = []
    errors: list[Exception] = []
    barrier = threading.Barrier(count)

    def work(client: Client) -> None:
        barrier.wait()
        try:
            rates.append(_append_singles(client, seconds))
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=work, args=(client,)) for client in clients[:count]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(rates)


def _append_singles(client: Client, seconds: float) -> float:
    event = client.prepare(payloads(1))

    def step() -> int:
        client.append(event)
        return 1

    events, elapsed = count_during(step, seconds)
    return events / elapsed


# ---- processes ----------------------------------------------------------------------------------


def _measure_processes(settings: Settings, directory: Path) -> Values:
    system, count = Millstream(), _processes(settings)
    with (
        system.running(directory, DISK) as place,
        children(append_on_demand, [(system, place)] * count) as connections,
    ):
        for connection in connections:
            receive(connection)
        return _one_and_all(partial(_run_processes, connections), settings, count)


def _run_processes(connections: Sequence[Connection], count: int, seconds: float) -> float:
    for connection in connections[:count]:
        connection.send(seconds)
    rates: list[float] = [receive(connection) for connection in connections[:count]]
    return sum(rates)


def append_on_demand(connection: Connection, system: System, place: Place) -> None:
    """In a child: append for the seconds that come, answer with the rate; stop at None."""
    client = system.connect(place)
    try:
        connection.send(0.0)
        while (seconds := connection.recv()) is not None:
            connection.send(_append_singles(client, seconds))
    finally:
        client.close()
