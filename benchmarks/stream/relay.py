"""Both ends of a stream of single events, and our stream between them: each of the three is a process."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import millstream as ms
from benchmarks.programs import pause
from benchmarks.stream.peers.lines import HOST, Lines, put

RATE = 10_000
_TOGETHER_MIN = 10
_PAUSE_S = 0.000_5
_VALUES = 10
_NANOSECONDS = 1_000_000_000
_READY = "ready"

Integers: TypeAlias = npt.NDArray[np.int64]
Send: TypeAlias = Callable[[Integers, Integers], None]
"""Sends events: their stamps and their values."""


class Ends(Protocol):
    """Where events go in and results come out. Can be sent to another process."""

    def sending(self) -> AbstractContextManager[Send]:
        """Make ready to send."""

    def results(self) -> AbstractContextManager[Iterator[tuple[Integers, Integers]]]:
        """Make ready to receive: stamps and doubled values, as they come."""


@dataclass(frozen=True, slots=True)
class TopicEnds:
    """Two topics of a store."""

    store: Path
    durability: str

    @contextmanager
    def sending(self) -> Iterator[Send]:
        """Append Arrow batches."""
        with self.app() as app:
            topic, _ = self.topics(app)

            def append(stamps: Integers, values: Integers) -> None:
                topic.append(pa.record_batch({"stamp": stamps, "value": values}))

            yield append

    @contextmanager
    def results(self) -> Iterator[Iterator[tuple[Integers, Integers]]]:
        """Consume in a group that commits its place by itself."""
        with self.app() as app, self.topics(app)[1].consume("receivers") as consumer:
            tables = (batch.table for batch in consumer)
            yield ((table["stamp"].to_numpy(), table["double"].to_numpy()) for table in tables)

    def app(self) -> ms.App:
        """Open the store."""
        return ms.App("bench", store=self.store, durability=self.durability)

    def topics(self, app: ms.App) -> tuple[ms.Topic, ms.Topic]:
        """Return where events go in and results come out."""
        source = app.topic("events", schema={"stamp": int, "value": int})
        return source, app.topic("doubled", schema={"stamp": int, "double": int})


@dataclass(frozen=True, slots=True)
class LineEnds:
    """Two sockets that a peer connects to."""

    source_port: int
    sink_port: int

    @contextmanager
    def sending(self) -> Iterator[Send]:
        """Send lines to who has connected."""
        with socket.create_server((HOST, self.source_port)) as server:
            connections: list[socket.socket] = []

            def send(stamps: Integers, values: Integers) -> None:
                if not connections:
                    connections.append(_accepted(server))
                pairs = zip(stamps.tolist(), values.tolist(), strict=True)
                put(connections[0], (b"%d %d" % pair for pair in pairs))

            yield send

    @contextmanager
    def results(self) -> Iterator[Iterator[tuple[Integers, Integers]]]:
        """Receive lines from who has connected."""
        with socket.create_server((HOST, self.sink_port)) as server:
            yield _received(server)


def _accepted(server: socket.socket) -> socket.socket:
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _received(server: socket.socket) -> Iterator[tuple[Integers, Integers]]:
    with _accepted(server) as connection:
        lines = Lines(connection)
        while lines.is_open:
            if taken := lines.take():
                pairs = np.array(b" ".join(taken).split(), dtype=np.int64).reshape(-1, 2)
                yield pairs[:, 0], pairs[:, 1]


def values_of(first: int, count: int) -> Integers:
    """Return the values of events: one of ten is 0, and is left out."""
    return np.arange(first, first + count, dtype=np.int64) % _VALUES


def send(connection: Connection, ends: Ends) -> None:
    """In a child: send the waves that the parent asks for, each at its rate."""
    with ends.sending() as give:
        connection.send(_READY)
        while (asked := connection.recv()) is not None:
            _send_wave(give, *asked)


def _send_wave(give: Send, first: int, count: int) -> None:
    values = values_of(first, count)
    began_ns, sent = time.perf_counter_ns(), 0
    while sent < count:
        now_ns = time.perf_counter_ns()
        due = min(count, (now_ns - began_ns) * RATE // _NANOSECONDS)
        if due - sent < min(_TOGETHER_MIN, count - sent):
            pause(_PAUSE_S)
            continue
        give(np.full(due - sent, now_ns, dtype=np.int64), values[sent:due])
        sent = due


def collect(connection: Connection, ends: Ends, waves: Sequence[int]) -> None:
    """In a child: receive the results of each wave, and answer how long they were on their way, in ns."""
    first = 0
    with ends.results() as results:
        connection.send(_READY)
        for count in waves:
            expected = values_of(first, count)
            first += count
            waits_ns: list[int] = []
            total, kept = 0, int(np.count_nonzero(expected))
            while len(waits_ns) < kept:
                stamps, doubles = next(results)
                waits_ns += (time.perf_counter_ns() - stamps).tolist()
                total += int(doubles.sum())
            if len(waits_ns) != kept or total != 2 * int(expected.sum()):
                connection.send((waits_ns, f"{len(waits_ns)} results, in sum {total}, are wrong"))
                return
            connection.send((waits_ns, None))
        connection.recv()


class _Told:
    """Whether the parent has said that it is enough."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def is_set(self) -> bool:
        """Look at the pipe."""
        return self._connection.poll()


def stream(connection: Connection, ends: TopicEnds) -> None:
    """In a child: run our stream between the topics until told to stop."""
    with ends.app() as app:
        source, sink = ends.topics(app)
        flow = (
            app.read(source)
            .filter(ms.col("value") != 0)
            .select("stamp", double=ms.col("value") * 2)
            .write(sink.name)
        )
        connection.send(_READY)
        flow.stream(stop=_Told(connection))
