"""Single events as lines on sockets, ``STAMP VALUE``: what every peer can read and write. The standard library only.

What is done with one: it is left out if its value is 0; otherwise its value is doubled.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable

HOST = "127.0.0.1"
_BYTES_MAX = 65_536


def passed(line: bytes) -> bytes | None:
    """Return what is made of a line, or None if it is left out."""
    stamp, _, value = line.partition(b" ")
    number = int(value)
    return b"%s %d" % (stamp, 2 * number) if number else None


class Lines:
    """The lines of a connection that have arrived."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""
        self.is_open = True

    def take(self, wait_s: float | None = None) -> list[bytes]:
        """Wait for the first, at most so long, and return what is there."""
        if not self.is_open or not select.select([self._connection], [], [], wait_s)[0]:
            return []
        data = self._connection.recv(_BYTES_MAX)
        self.is_open = bool(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


def connected(port: int) -> socket.socket:
    """Return a connection that sends at once."""
    connection = socket.create_connection((HOST, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def put(connection: socket.socket, lines: Iterable[bytes]) -> None:
    """Send lines."""
    if text := b"".join(line + b"\n" for line in lines):
        connection.sendall(text)


def relay_lines(ports: tuple[int, int]) -> None:
    """Pass lines on until there are no more."""
    with connected(ports[0]) as source, connected(ports[1]) as sink:
        lines = Lines(source)
        while lines.is_open:
            put(sink, [out for line in lines.take() if (out := passed(line)) is not None])
