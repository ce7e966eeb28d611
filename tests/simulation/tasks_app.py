"""An app with a task of every kind, for processes that are killed. Each run is a line of the ledger.

Environment: LEDGER_STORE and LEDGER_FILE say where both are, LEDGER_DURABILITY how safe this process writes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import millstream as ms
from millstream.primitives.clock import SYSTEM_CLOCK
from millstream.primitives.telemetry import set_listener
from tests.simulation.tasks_ledger import Writer

RATE = 200
NARROW = 2
ACCOUNTS = 3
SOURCES = 4
TICK_US = 500_000
POLICIES = ("all", "latest", "skip")
OPENED_MAX = 6
"""As many calls as any worker of the campaign runs at once."""

app = ms.App(
    "ledger",
    store=os.environ.get("LEDGER_STORE", "ledger.mill"),
    durability=os.environ.get("LEDGER_DURABILITY", "process"),
)
_writers: list[Writer] = []


def ledger() -> Writer:
    """The ledger of this process, opened by its first line."""
    if not _writers:
        _writers.append(Writer(Path(os.environ["LEDGER_FILE"])))
    return _writers[0]


def work(rounds: int = 1_000) -> None:
    """Use the processor for a moment: about a millisecond for 1,000 rounds."""
    hashlib.pbkdf2_hmac("sha256", b"millstream", b"salt", rounds)


def _listen(step: str) -> None:
    if step == "task.evicted":
        ledger().write("worker", 0, "evicted")


if "LEDGER_FILE" in os.environ:
    set_listener(_listen)


class Failed(Exception):
    """What tasks raise that shall fail."""


@app.task(result_ttl="7d")
def plain(n: int) -> int:
    with ledger().run("plain", n):
        work()
    return n * n


@app.task(result_ttl="7d")
async def coroutine(n: int) -> int:
    with ledger().run("coroutine", n):
        await asyncio.get_running_loop().run_in_executor(None, work)
    return n * n


@app.task(result_ttl="7d", bind=True)
def bound(self: ms.BoundTask, n: int) -> int:
    with ledger().run("bound", n, self.request.id):
        for done in range(2):
            self.update_state(meta={"current": done, "total": 2})
            work(500)
    return n * n


@app.task(result_ttl="7d", bind=True, retries=3, backoff=ms.Backoff.constant("20ms"))
def flaky(self: ms.BoundTask, n: int) -> int:
    with ledger().run("flaky", n, self.request.id):
        if self.request.retries < n % 4:
            raise Failed(n)
    return n * n


@app.task(result_ttl="7d", bind=True, retries=3)
def asking(self: ms.BoundTask, n: int) -> int:
    with ledger().run("asking", n, self.request.id):
        if self.request.retries < 2:
            raise self.retry(countdown=0.03)
    return n * n


@app.task(retries=1, backoff=ms.Backoff.constant("10ms"))
def doomed(n: int) -> None:
    with ledger().run("doomed", n):
        raise Failed(n)


@app.task(result_ttl="7d")
def later(n: int) -> int:
    with ledger().run("later", n):
        work(200)
    return n * n


@app.task(result_ttl="7d")
def expiring(n: int) -> int:
    with ledger().run("expiring", n):
        work(200)
    return n * n


@app.task(result_ttl="7d")
def withdrawn(n: int) -> int:
    with ledger().run("withdrawn", n):
        work(200)
    return n * n


@app.task(result_ttl="7d", acks_late=False)
def once(n: int) -> int:
    with ledger().run("once", n):
        work()
    return n * n


@app.task(result_ttl="7d", unique=ms.Unique(by=("source",)))
def unique(source: int, n: int) -> int:
    with ledger().run("unique", n):
        work()
    return source


@app.task(result_ttl="7d", lock="account:{account}")
def locked(account: int, n: int) -> int:
    with ledger().run("locked", n):
        work(2_000)
    return account


@app.task(result_ttl="7d", concurrency=NARROW)
def narrow(n: int) -> int:
    with ledger().run("narrow", n):
        work(2_000)
    return n * n


@app.task(result_ttl="7d", rate_limit=f"{RATE}/s")
def rated(n: int) -> int:
    with ledger().run("rated", n):
        work(200)
    return n * n


@app.task(
    result_ttl="7d",
    batch=ms.Batch(max=20, wait="40ms"),
    retries=1,
    backoff=ms.Backoff.constant("10ms"),
)
def batched(numbers: list[int]) -> list[int | Exception]:
    for n in numbers:
        ledger().write("batched", n, "start", extra=SYSTEM_CLOCK.now_us())
    work()
    for n in numbers:
        ledger().write("batched", n, "raise" if is_refused(n) else "end")
    return [Failed(n) if is_refused(n) else n * n for n in numbers]


def is_refused(n: int) -> bool:
    """Tell whether a batch refuses a number, each time."""
    return n % 5 == 0


def shared() -> Iterator[list[int]]:
    """Give what all calls of a worker share."""
    yield []


def opened(kept: list[int] = ms.Depends(shared, scope="worker")) -> Iterator[Callable[[int], int]]:
    """Give each call a function of its own, and look that the call before gave its back."""
    assert len(kept) < OPENED_MAX, "what calls opened was not closed"
    kept.append(1)
    try:
        yield lambda n: n * n
    finally:
        kept.pop()


@app.task(result_ttl="7d")
def depending(n: int, squared: Callable[[int], int] = ms.Depends(opened)) -> int:
    with ledger().run("depending", n):
        work(500)
        return squared(n)


@app.task(ignore_result=True)
def mute(n: int) -> None:
    with ledger().run("mute", n):
        work(200)


# ---- steps of workflows -------------------------------------------------------------------------


@app.task(result_ttl="7d", bind=True)
def add(self: ms.BoundTask, value: int, n: int, label: int) -> int:
    with ledger().run("add", f"{n}.{label}", self.request.id):
        work(200)
    return value + label


@app.task(result_ttl="7d", bind=True)
def total(self: ms.BoundTask, values: list[int], n: int, label: int) -> int:
    with ledger().run("total", f"{n}.{label}", self.request.id):
        work(200)
    return sum(values)


@app.task(retries=0, bind=True)
def breaking(self: ms.BoundTask, n: int, label: int) -> int:
    with ledger().run("breaking", f"{n}.{label}", self.request.id):
        raise Failed(n)


@app.task(bind=True)
def excuse(self: ms.BoundTask, failed_id: str, n: int, label: int) -> None:
    with ledger().run("excuse", f"{n}.{label}", self.request.id):
        work(200)


@app.task(bind=True)
def replaced(self: ms.BoundTask, n: int) -> int:
    with ledger().run("replaced", n, self.request.id):
        self.replace(ms.chain(add.si(0, n, 1), add.s(n, 2)))


@app.task(bind=True)
def tick(self: ms.BoundTask, policy: str) -> None:
    with ledger().run("tick", self.request.id, self.request.id):
        work(200)


for _policy in POLICIES:
    app.schedule(
        f"tick-{_policy}",
        tick.s(_policy),
        ms.every(timedelta(microseconds=TICK_US)),
        missed=_policy,
    )
