"""A process that sends calls of every kind until it is killed: ``python -m tests.simulation.tasks_sender``.

Each byte on its standard input lets it send one batch: a bulk of one kind, or one workflow. It writes into the ledger
what it is about to send, and again once that is acknowledged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from random import Random
from typing import Any

import millstream as ms
from millstream.primitives.schema import us_datetime
from tests.simulation import tasks_app as shop

BULK_MAX = 40
PER_SENDER = 1_000_000
"""How many numbers belong to one sender."""
MAIN: tuple[int, ...] = (1, 2, 3)
SOON_US = 1_500_000

Single = Callable[[int], ms.Signature[Any]]
SINGLES: dict[str, Single] = {
    "plain": shop.plain.s,
    "coroutine": shop.coroutine.s,
    "bound": shop.bound.s,
    "flaky": shop.flaky.s,
    "asking": shop.asking.s,
    "doomed": shop.doomed.s,
    "later": shop.later.s,
    "expiring": shop.expiring.s,
    "withdrawn": shop.withdrawn.s,
    "once": shop.once.s,
    "unique": lambda n: shop.unique.s(n % shop.SOURCES, n),
    "locked": lambda n: shop.locked.s(n % shop.ACCOUNTS, n),
    "narrow": shop.narrow.s,
    "rated": shop.rated.s,
    "mute": shop.mute.s,
    "batched": shop.batched.s,
    "depending": shop.depending.s,
}


def chain(n: int) -> Any:
    return ms.chain(shop.add.s(0, n, 1), shop.add.s(n, 2), shop.add.s(n, 3))


def chord(n: int) -> Any:
    return ms.chord([shop.add.s(0, n, label) for label in (1, 2, 3, 4)], shop.total.s(n, 5))


def nested(n: int) -> Any:
    """A chain, in it a group of a chain and a chord."""
    inner = ms.chord([shop.add.s(n, 2), shop.add.s(n, 3)], shop.total.s(n, 4))
    group = ms.group(inner, shop.add.s(n, 5) | shop.add.s(n, 6))
    return ms.chain(shop.add.s(0, n, 1), group, shop.total.s(n, 7))


def linked(n: int) -> Any:
    return shop.add.s(0, n, 1).set(link=shop.add.s(n, 2))


def broken(n: int) -> Any:
    """A chord whose body never runs, because a member fails; its error callback does."""
    members = [shop.add.s(0, n, 1), shop.breaking.si(n, 2)]
    return ms.chord(members, shop.total.s(n, 3).on_error(shop.excuse.s(n, 4)))


def replaced(n: int) -> Any:
    return ms.chain(shop.replaced.s(n), shop.add.s(n, 3))


WORKFLOWS: dict[str, Callable[[int], Any]] = {
    "chain": chain,
    "chord": chord,
    "nested": nested,
    "linked": linked,
    "broken": broken,
    "replacing": replaced,
}


class Sender:
    """Sends what its seed says, under its own numbers."""

    def __init__(self, seed: str, first: int) -> None:
        """Start with the number ``first``."""
        self._random = Random(seed)
        self._next = first

    def send(self) -> None:
        """Send one batch."""
        if self._random.random() < 0.3:
            self._send_workflow(self._random.choice(sorted(WORKFLOWS)))
        else:
            self._send_bulk(self._random.choice(sorted(SINGLES)))

    def _send_workflow(self, kind: str) -> None:
        (n,) = self._numbers(1)
        shop.ledger().write(kind, n, "begin")
        result = WORKFLOWS[kind](n).delay()
        shop.ledger().write(kind, n, "sent", result.id)

    def _send_bulk(self, kind: str) -> None:
        calls = []
        for n in self._numbers(self._random.choice((1, 1, 5, BULK_MAX))):
            call, moment_us = self._call(kind, n)
            shop.ledger().write(kind, n, "begin", call.task_id or "", extra=moment_us)
            calls.append((n, call))
        if len(calls) == 1:
            results = [calls[0][1].delay()]
        else:
            results = shop.app.tasks.enqueue_many(call for _, call in calls)
        if kind == "withdrawn":
            shop.app.tasks.control.revoke([one.id for one in results], reason="withdrawn")
        for (n, _), result in zip(calls, results, strict=True):
            shop.ledger().write(kind, n, "sent", result.id)

    def _call(self, kind: str, n: int) -> tuple[ms.Signature[Any], int]:
        """Return a call and the moment that it must wait for, or at which it expires."""
        call = SINGLES[kind](n).set(task_id=f"{kind}-{n}", priority=self._random.randrange(10))
        moment_us = shop.app.tasks_engine.now_us() + self._random.randrange(SOON_US)
        if kind == "later":
            return call.set(eta=us_datetime(moment_us)), moment_us
        if kind == "expiring":
            return call.set(expires=us_datetime(moment_us)), moment_us
        return call, 0

    def _numbers(self, count: int) -> range:
        first, self._next = self._next, self._next + count
        return range(first, self._next)


if __name__ == "__main__":
    sender = Sender(sys.argv[1], int(sys.argv[2]))
    with shop.app:
        while os.read(0, 1):
            sender.send()
