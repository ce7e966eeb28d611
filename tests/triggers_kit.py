"""An app whose triggers are looked at under a clock that stands still, and what its tests do with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import millstream as ms
from millstream.engines.local.flow_file_intake import SETTLED_US
from millstream.flows.triggers import TriggerStatus
from millstream.primitives.telemetry import set_listener
from millstream.testing import VirtualClock


def opened(path: Path, clock: VirtualClock) -> ms.App:
    """Return an app with a topic of two partitions, in which nothing is yet."""
    app = ms.App("shop", store=path, durability="process", clock=clock)
    app.topic("orders", schema={"eur": int}, partitions=2).append([])
    return app


def add(app: ms.App, *values: int) -> None:
    """Append events, to the two partitions in turn."""
    topic = app.topic("orders", schema={"eur": int}, partitions=2)
    for number, value in enumerate(values):
        topic.append({"eur": value}, partition=number % 2)


def declare(app: ms.App, *conditions: object, mode: str = "batch", name: str = "job") -> None:
    """Declare a trigger whose flow copies the topic."""

    @app.trigger(*conditions, mode=mode, name=name)  # type: ignore[arg-type]
    def job() -> ms.Flow:
        return app.read("orders").write(f"out_{name}")


def out(app: ms.App, name: str = "job") -> list[int]:
    """Return what that flow has written."""
    found = app.read(f"out_{name}").collect()["eur"].to_pylist()
    return sorted(found)


def only(app: ms.App) -> TriggerStatus:
    """Return where the only trigger stands."""
    [status] = app.triggers.list()
    return status


def put(clock: VirtualClock, path: Path, text: str, *, age_us: int = SETTLED_US) -> Path:
    """Write a file that was last changed so long ago."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    at_ns = (clock.now_us() - age_us) * 1000
    os.utime(path, ns=(at_ns, at_ns))
    return path


def once_at(step: str, do: Callable[[], object]) -> None:
    """Do something when that step is reached for the first time from now on."""

    def listen(reached: str) -> None:
        if reached == step:
            set_listener(None)
            do()

    set_listener(listen)
