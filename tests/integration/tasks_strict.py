"""An app whose tasks have limits, and go over them in every way. They tell what they do, as those of ``tasks_shop``."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal

import millstream as ms
from tests.integration.tasks_shop import tell

app = ms.App(
    "strict",
    store=os.environ.get("SHOP_STORE", "strict.mill"),
    durability=os.environ.get("SHOP_DURABILITY", "process"),
)
NEVER_S = 600.0


def wait_in_the_kernel() -> None:
    select.select([], [], [], NEVER_S)


def hold_the_interpreter() -> None:
    """Never return, and never give the interpreter's lock back: a regular expression that backtracks for ever."""
    re.match(r"(a+)+$", "a" * 100 + "b")


@app.task(retries=0)
def tidy(way: str) -> str:
    tell(f"tidy {way}")
    try:
        if way == "waits":
            wait_in_the_kernel()
        while True:
            pass
    except ms.errors.SoftTimeLimitExceeded:
        return "tidied up"


@app.task(retries=0)
async def tidy_coroutine() -> str:
    try:
        async with asyncio.timeout(NEVER_S):
            await asyncio.Event().wait()
    except ms.errors.SoftTimeLimitExceeded:
        await asyncio.sleep(0)  # It may go on waiting: the limit is told once.
        return "tidied up"
    return "never"


@app.task(retries=1, backoff="constant", soft_time_limit=0.05)
def untidy() -> None:
    wait_in_the_kernel()


@app.task(retries=1, backoff=ms.Backoff.constant("10ms"), time_limit=0.3, soft_time_limit=0.1)
def stubborn() -> None:
    tell("stubborn")
    while True:
        try:
            wait_in_the_kernel()
        except ms.errors.SoftTimeLimitExceeded:
            tell("told")


@app.task(retries=1, backoff=ms.Backoff.constant("10ms"), time_limit=0.3)
def deaf() -> None:
    tell("deaf")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    hold_the_interpreter()


@app.task(
    batch=ms.Batch(max=3, wait="20s"),
    retries=0,
    time_limit=0.3,
    backoff=ms.Backoff.constant("10ms"),
)
def deaf_batch(numbers: list[int]) -> None:
    tell(f"deaf {sorted(numbers)}")
    hold_the_interpreter()


@app.task
def silent() -> None:
    tell("silent")
    hold_the_interpreter()


@app.task(retries=1, backoff=ms.Backoff.constant("10ms"), memory_limit="300MB")
def greedy(megabytes: int) -> int:
    tell(f"greedy {megabytes}")
    hoard = b"x" * (megabytes * 1_000_000)
    if megabytes > 300:
        wait_in_the_kernel()
    return len(hoard) // 1_000_000


@app.task
def hoard(megabytes: int) -> None:
    tell("hoard")
    KEPT.append(b"x" * (megabytes * 1_000_000))


KEPT: list[bytes] = []


@app.task(result_ttl="7d")
def double(n: int) -> int:
    tell(f"double {n}")
    return 2 * n
