"""An app for worker processes under test. Its tasks tell what they do through a named pipe, one line a step.

Environment: SHOP_STORE, SHOP_DURABILITY, SHOP_PIPE, SHOP_GATE (a pipe that tasks wait for), and
SHOP_KILL_AT=step: the first process that reaches that step of the telemetry is killed there, once.
SHOP_TELL_AT=step: a process tells when it reaches that step.
SHOP_SIGNALS: the signals of worker processes are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import millstream as ms
from millstream.primitives.telemetry import set_listener

app = ms.App(
    "shop",
    store=os.environ.get("SHOP_STORE", "shop.mill"),
    durability=os.environ.get("SHOP_DURABILITY", "process"),
)


def tell(what: str) -> None:
    pipe = os.open(os.environ["SHOP_PIPE"], os.O_WRONLY)
    os.write(pipe, f"{os.getpid()} {what}\n".encode())
    os.close(pipe)


def kill_once_at(step: str) -> None:
    def listen(reached: str) -> None:
        if reached != step:
            return
        try:
            (Path(os.environ["SHOP_STORE"]).parent / "killed").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    set_listener(listen)


def tell_at(step: str) -> None:
    set_listener(lambda reached: tell(reached) if reached == step else None)


if "SHOP_KILL_AT" in os.environ:
    kill_once_at(os.environ["SHOP_KILL_AT"])
if "SHOP_TELL_AT" in os.environ:
    tell_at(os.environ["SHOP_TELL_AT"])


if "SHOP_SIGNALS" in os.environ:
    for signal_of_process in (
        app.signals.worker_process_init,
        app.signals.worker_ready,
        app.signals.worker_shutdown,
        app.signals.worker_process_shutdown,
    ):
        signal_of_process.connect(
            lambda event, name=signal_of_process.name: tell(f"{name} {event.pool} {event.node}")
        )
    app.signals.task_revoked.connect(lambda event: tell(f"revoked {event.reason}"))


@app.task(result_ttl="7d")
def square(n: int) -> int:
    tell(f"square {n}")
    return n * n


@app.task
async def shout(text: str) -> str:
    return text.upper()


@app.task(retries=2, backoff="constant")
def flaky(n: int) -> str:
    tell(f"flaky {n}")
    raise ValueError(f"no {n}")


@app.task(queue="deadly")
def poison() -> None:
    tell("poison")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def gated(name: str) -> str:
    tell(f"gated {name}")
    # Several may wait for the same gate in one process: each looks again when another was faster.
    gate = os.open(os.environ["SHOP_GATE"], os.O_RDONLY | os.O_NONBLOCK)
    passed = b""
    while not passed:
        select.select([gate], [], [])
        with contextlib.suppress(BlockingIOError):
            passed = os.read(gate, 1)
    os.close(gate)
    return name


@app.task(acks_late=False)
def only_once(name: str) -> str:
    return gated(name)


@app.task
async def dream() -> None:
    tell("dream")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        tell("woken")
        raise


@app.task
def unstorable() -> object:
    return object()


def shared() -> Iterator[int]:
    tell("open")
    yield os.getpid()
    tell("close")


@app.task
def in_process(process: int = ms.Depends(shared, scope="worker")) -> bool:
    return process == os.getpid()


@app.task(batch=ms.Batch(max=5, wait="20ms"))
def gather(names: list[str]) -> list[str | Exception]:
    tell(f"gather {' '.join(names)}")
    if "poison" in names:
        os.kill(os.getpid(), signal.SIGKILL)
    return [KeyError(name) if name == "odd" else f"{name} of {len(names)}" for name in names]


@app.task(batch=ms.Batch(max=3, wait="1h"))
def gated_batch(names: list[str]) -> list[int]:
    tell(f"batch {' '.join(names)}")
    gate = os.open(os.environ["SHOP_GATE"], os.O_RDONLY)
    os.read(gate, 1)
    os.close(gate)
    return [os.getpid()] * len(names)
