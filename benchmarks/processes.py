"""Children of a benchmark: fresh Python processes, each on a pipe, ended with the block that started them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

_ANSWER_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 20.0


@contextmanager
def children(
    target: Callable[..., None], arguments: Sequence[tuple[object, ...]]
) -> Iterator[list[Connection]]:
    """Run ``target(connection, *arguments)`` in a process for each; yield the ends of their pipes.

    At the end each gets None, and a little time to finish.
    """
    context = multiprocessing.get_context("spawn")
    processes, connections = [], []
    try:
        for given in arguments:
            ours, theirs = context.Pipe()
            process = context.Process(target=target, args=(theirs, *given), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
        yield connections
    finally:
        for connection in connections:
            try:
                connection.send(None)
            except OSError:
                continue  # it has ended already
        for process in processes:
            process.join(_END_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join()


def receive(connection: Connection) -> Any:
    """Return what a child sends next. Raises RuntimeError if it says nothing or dies."""
    if not connection.poll(_ANSWER_TIMEOUT_S):
        raise RuntimeError(f"a child said nothing for {_ANSWER_TIMEOUT_S:.0f} s")
    try:
        return connection.recv()
    except EOFError as error:
        raise RuntimeError("a child ended before it answered") from error
