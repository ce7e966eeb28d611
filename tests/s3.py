"""A store of objects that speaks S3, for tests: moto's server, in a process of its own, gone at the end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET = "shop"
_SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@contextmanager
def server() -> Iterator[dict[str, Any]]:
    """Start it with one bucket, and give the storage options that lead to it."""
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "errors"
        with errors.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port, errors.read_text()
            options = {
                "key": "k",
                "secret": "s",
                "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}"},
            }
            import s3fs

            s3fs.S3FileSystem(**options).mkdir(BUCKET)
            yield options
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(30)
