"""Real worker processes for tests, and the pipe through which their tasks tell what they do."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from millstream.app import App
from millstream.primitives.durability import Durability
from tests.integration import tasks_shop

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


class Site:
    """One store, seen by this process and by the workers that it starts."""

    def __init__(
        self,
        folder: Path,
        durability: str,
        monkeypatch: pytest.MonkeyPatch,
        module: ModuleType = tasks_shop,
    ) -> None:
        self._module = module.__name__
        self.path = folder / "shop.mill"
        for name, value in (
            ("SHOP_STORE", self.path),
            ("SHOP_DURABILITY", durability),
            ("SHOP_PIPE", folder / "pipe"),
            ("SHOP_GATE", folder / "gate"),
        ):
            monkeypatch.setenv(name, str(value))
        for name in ("pipe", "gate"):
            os.mkfifo(folder / name)
        # Open for reading and writing, so that neither side ever sees an end.
        self._pipe = os.open(folder / "pipe", os.O_RDWR | os.O_NONBLOCK)
        self._gate = os.open(folder / "gate", os.O_RDWR | os.O_NONBLOCK)
        self._told = b""
        # The app of this process is declared once; each test gives it a store of its own.
        self.app: App = module.app
        self.app.store_path = str(self.path)
        self.app.durability = Durability(durability)
        self.engine = self.app.tasks_engine

    def listen(self, *, patience_s: float = PATIENCE_S) -> tuple[int, str]:
        """Return process and words of the next line."""
        while b"\n" not in self._told:
            ready, _, _ = select.select([self._pipe], [], [], patience_s)
            assert ready, "no worker said anything"
            self._told += os.read(self._pipe, 65536)
        line, _, self._told = self._told.partition(b"\n")
        process, _, words = line.decode().partition(" ")
        return int(process), words

    def listen_to_all(self) -> list[tuple[int, str]]:
        """Return what has been said so far."""
        lines = []
        while b"\n" in self._told or select.select([self._pipe], [], [], 0)[0]:
            lines.append(self.listen())
        return lines

    def open_gate(self, times: int = 1) -> None:
        os.write(self._gate, b"." * times)

    @contextmanager
    def worker(self, *options: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run ``millstream worker`` until the block ends."""
        command = [sys.executable, "-m", "millstream", "worker"]
        command += ["-A", self._module, *options]
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stderr=subprocess.PIPE
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=PATIENCE_S)
            finally:
                process.kill()

    def burst(self, *options: str, **environment: str) -> None:
        """Run workers until nothing is left to do."""
        with self.worker("--burst", *options, **environment) as process:
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors.decode()

    def close(self) -> None:
        self.app.close()
        os.close(self._pipe)
        os.close(self._gate)


@contextmanager
def site(
    folder: Path,
    durability: str,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType = tasks_shop,
) -> Iterator[Site]:
    opened = Site(folder, durability, monkeypatch, module)
    try:
        yield opened
    finally:
        opened.close()
