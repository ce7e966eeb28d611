"""A PostgreSQL server of the tests' own: a new cluster in a temporary folder, reached through a socket in it.

The server comes from the system (on Debian the package ``postgresql``). It refuses to run as root, so root starts it
as another user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROLE = "postgres"
PATIENCE_S = 60
_DEBIAN = Path("/usr/lib/postgresql")
_READY = "database system is ready to accept connections"
_USERS = ("postgres", "nobody")
"""Whom root starts the server as: the first that there is."""


def _binaries() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres``; Debian keeps it out of the PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


def _other_user() -> dict[str, Any]:
    """Return what makes a process run as somebody who is not root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    entry = pwd.getpwnam(next(name for name in _USERS if name in names))
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@contextmanager
def server() -> Iterator[str]:
    """Run a server until the block ends; yield the connection string of its database."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("there is no PostgreSQL server here (on Debian: apt-get install postgresql)")
    other = _other_user()
    with tempfile.TemporaryDirectory(prefix="millstream-pg-") as name:
        folder = Path(name)
        if other:
            os.chown(folder, other["user"], other["group"])
        data = folder / "data"
        # Crashes of clients are tested here, not the server's own.
        initdb = [binaries / "initdb", "-D", data, "-U", ROLE, "-A", "trust", "-E", "UTF8", "-N"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **other)
        settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "logging_collector=off"]
        process = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-k", folder, *settings],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            **other,
        )
        try:
            _await_ready(process)
            yield f"host={folder} user={ROLE} dbname=postgres"
        finally:
            process.send_signal(signal.SIGINT)  # Ends sessions, and shuts down.
            process.communicate(timeout=PATIENCE_S)


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if _READY in line:
            return
    raise RuntimeError(f"PostgreSQL did not start:\n{''.join(said)}")
