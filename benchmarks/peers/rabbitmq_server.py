"""A rabbitmq-server of our own: its node, ports, files and port mapper belong to this run alone."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from benchmarks.harness import Unavailable
from benchmarks.programs import free_port, programs, tail, until

# Debian's command on the PATH changes to another user first; the program itself does not.
_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_START_TIMEOUT_S = 60.0
_GREETING = b"AMQP\x00\x00\x09\x01"


@contextmanager
def rabbitmq_server(directory: Path) -> Iterator[int]:
    """Run a server and yield its port; it is stopped and waited for at the end."""
    epmd = which("epmd")
    if not _PROGRAM.exists() or epmd is None:
        raise Unavailable(
            "rabbitmq-server is not installed (on Debian: apt-get install rabbitmq-server)"
        )
    port, mapper_port = free_port(), free_port()
    environment = _environment(directory, port, mapper_port)
    mapper = [epmd, "-port", str(mapper_port), "-address", "127.0.0.1"]
    log = directory / "rabbitmq.log"
    with (
        programs([mapper], directory / "epmd.log", environment=environment),
        programs([[str(_PROGRAM)]], log, environment=environment),
    ):
        try:
            until(
                lambda: _answers(port),
                timeout_s=_START_TIMEOUT_S,
                every_s=0.1,
                what="rabbitmq-server answers",
            )
        except Unavailable as error:
            raise Unavailable(f"{error}: {tail(log)}") from error
        yield port


def _environment(directory: Path, port: int, mapper_port: int) -> dict[str, str]:
    home = directory / "rabbitmq"
    home.mkdir()
    plugins = home / "enabled_plugins"
    plugins.write_text("[].\n", encoding="ascii")
    nothing = home / "nothing.conf"
    nothing.touch()
    return {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "RABBITMQ_NODENAME": f"bench-{uuid.uuid4().hex[:8]}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_CONFIG_FILE": str(nothing),
        "RABBITMQ_CONF_ENV_FILE": str(nothing),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_PORT": str(mapper_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(_GREETING)
            # The server opens with a frame of type 1, or repeats the greeting when it wants another version.
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
