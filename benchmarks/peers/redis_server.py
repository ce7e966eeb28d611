"""A redis-server of our own: on a free port of this machine, with its files in the directory of the run."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Unavailable
from benchmarks.programs import free_port

_START_TIMEOUT_S = 10.0
_ATTEMPTS = 3


@contextmanager
def redis_server(directory: Path, *, appendfsync: str | None) -> Iterator[int]:
    """Run a server and yield its port; it is stopped and waited for at the end.

    It has an append-only file, synced as ``appendfsync`` says, or with None nothing that outlives it.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise Unavailable("redis-server is not installed (on Debian: apt-get install redis-server)")
    process, port = _start(program, directory, appendfsync)
    try:
        yield port
    finally:
        process.terminate()
        try:
            process.wait(timeout=_START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(
    program: str, directory: Path, appendfsync: str | None
) -> tuple[subprocess.Popen[bytes], int]:
    kept = ["--appendonly", "no"]
    if appendfsync is not None:
        # Rewriting the file in the middle would be other work than ours.
        kept = ["--appendonly", "yes", "--appendfsync", appendfsync]
        kept += ["--auto-aof-rewrite-percentage", "0"]
    for _ in range(_ATTEMPTS):
        port = free_port()
        process = subprocess.Popen(
            [
                *(program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
                *("--save", "", *kept, "--daemonize", "no"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if _answers(process, port):
            return process, port
        process.kill()
        process.wait()
    raise Unavailable(f"redis-server did not start in {_ATTEMPTS} attempts")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return True
        except OSError:
            # Not listening yet: let it have the processor for a moment.
            try:
                process.wait(timeout=0.02)
            except subprocess.TimeoutExpired:
                continue
    return False
