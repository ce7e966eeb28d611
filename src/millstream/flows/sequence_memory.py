"""What was delivered last, to tell duplicates from conflicts."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Any, Final

UNKNOWN: Final = 0
"""A digest that cannot be compared."""


class Delivered:
    """Digests of the last delivered numbers: at least ``limit`` of them, at most twice as many. Eight bytes each."""

    __slots__ = ("_firsts", "_limit", "_runs", "_total")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._firsts: list[int] = []
        self._runs: list[array[int]] = []
        self._total = 0

    def add(self, seq: int, digest: int) -> None:
        """Add the next one."""
        if self._runs and self._firsts[-1] + len(self._runs[-1]) == seq:
            self._runs[-1].append(digest)
        else:
            self._firsts.append(seq)
            self._runs.append(array("Q", (digest,)))
        self._total += 1
        if self._total > 2 * self._limit:
            self._trim()

    def add_run(self, first: int, digests: array[int]) -> None:
        """Add many that follow each other."""
        if self._runs and self._firsts[-1] + len(self._runs[-1]) == first:
            self._runs[-1].extend(digests)
        else:
            self._firsts.append(first)
            self._runs.append(digests)
        self._total += len(digests)
        if self._total > 2 * self._limit:
            self._trim()

    def find(self, seq: int) -> int | None:
        """Return the digest of a number, or None if it was not delivered or is too long ago."""
        at = bisect_right(self._firsts, seq) - 1
        if at < 0 or seq - self._firsts[at] >= len(self._runs[at]):
            return None
        return self._runs[at][seq - self._firsts[at]]

    def dump(self, floor: int) -> list[Any]:
        """Return stretches from ``floor`` on: where each begins, and its digests."""
        found: list[Any] = []
        for first, run in zip(self._firsts, self._runs, strict=True):
            kept = list(run[max(0, floor - first) :])
            begin = max(first, floor)
            if found and found[-1][0] + len(found[-1][1]) == begin:
                found[-1][1].extend(kept)
            elif kept:
                found.append([begin, kept])
        return found

    def _trim(self) -> None:
        while self._total - len(self._runs[0]) >= self._limit:
            self._total -= len(self._runs.pop(0))
            del self._firsts[0]
        surplus = self._total - self._limit
        del self._runs[0][:surplus]
        self._firsts[0] += surplus
        self._total -= surplus
