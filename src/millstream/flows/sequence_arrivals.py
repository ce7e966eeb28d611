"""How long to wait, found out from how late events come: a quantile that forgets; and the jitter, as a figure.

The wait is that of WebRTC's NetEq (``delay_manager.cc``, ``underrun_optimizer.cc``, ``histogram.cc``,
``relative_arrival_delay_tracker.cc``). An event is on its way for its arrival less its time. Its relative delay is how
much longer that is than the least of the last two seconds. The greatest of each half second goes into a histogram of
100 buckets of 20 ms, in which all that was before counts ``f`` times as much:

    h[i] <- f h[i];  h[b] <- h[b] + 1 - f;  f <- min(0.983, max(0, 1 - 2 / (n + 1)))  after the n-th

and the wait is the upper end of the least bucket with no more than 5 % above it. Before there is any, it is 80 ms. What
is later than the last bucket is left out, as it could not be waited for. Two seconds stand for ``max_wait`` here: with
another one, all of these lengths change in proportion.

The jitter is that of RFC 3550, 6.4.1: ``J <- J + (|D| - J) / 16``, where D is by how much longer one event was on its
way than the one before it. It is a mean deviation, and says nothing of the few that are late; so it is only shown.
"""

from __future__ import annotations

from typing import Any, Final

QUANTILE: Final = 0.95
FORGET: Final = 0.983
BUCKETS: Final = 100
START_BUCKETS: Final = 4
_START_WEIGHT: Final = 2
_INTERVALS: Final = 4
"""In the longest wait: half seconds in two."""
_SLOTS: Final = 20
"""In the longest wait: the least delay is kept for each, so the window moves in steps of a twentieth."""
_EXPONENTS = range(1, BUCKETS + 1)


class Arrivals:
    """The delays of one key. Of fixed size."""

    __slots__ = (
        "_buckets",
        "_count",
        "_factor",
        "_from_us",
        "_greatest_us",
        "_least",
        "_max_us",
        "_transit_us",
        "_wait_us",
        "jitter_us",
    )

    def __init__(self, max_wait_us: int) -> None:
        """Start as NetEq does: a half in the first bucket, a quarter in the next one, and so on."""
        self._max_us = max_wait_us
        self._buckets = [0.5**i for i in _EXPONENTS]
        self._factor = 0.0
        self._count = 0
        self._from_us: int | None = None
        self._greatest_us = 0
        self._least: dict[int, int] = {}
        self._transit_us: int | None = None
        self._wait_us = START_BUCKETS * max_wait_us // BUCKETS
        self.jitter_us = 0.0

    @property
    def wait_us(self) -> int:
        """How long to wait; not clamped yet."""
        return self._wait_us

    def observe(self, now_us: int, time_us: int | None, overtaken_us: int) -> None:
        """Note an arrival. Without a time of its own, the delay is how long ago another one overtook it, or 0."""
        if time_us is None:
            self._relative(now_us, overtaken_us)
            return
        transit = now_us - time_us
        if self._transit_us is not None:
            self.jitter_us += (abs(transit - self._transit_us) - self.jitter_us) / 16
        self._transit_us = transit
        slot = now_us * _SLOTS // self._max_us
        self._least[slot] = min(transit, self._least.get(slot, transit))
        for old in [kept for kept in self._least if kept <= slot - _SLOTS]:
            del self._least[old]
        self._relative(now_us, transit - min(self._least.values()))

    def _relative(self, now_us: int, delay_us: int) -> None:
        """Note a relative delay: the greatest of an interval goes into the histogram when the interval is over."""
        if self._from_us is None:
            self._from_us = now_us
        if (now_us - self._from_us) * _INTERVALS > self._max_us:
            self._add(self._greatest_us * BUCKETS // self._max_us)
            self._from_us = now_us
            self._greatest_us = 0
        self._greatest_us = max(self._greatest_us, delay_us)

    def _add(self, bucket: int) -> None:
        if bucket < BUCKETS:
            factor = self._factor
            self._buckets = [share * factor for share in self._buckets]
            self._buckets[bucket] += 1 - factor
            self._count += 1
            self._factor = min(FORGET, max(0.0, 1 - _START_WEIGHT / (self._count + 1)))
        self._wait_us = self._quantile() * self._max_us // BUCKETS

    def _quantile(self) -> int:
        """Return how many buckets reach to the quantile."""
        above = 1.0
        for number, share in enumerate(self._buckets, start=1):
            above -= share
            if above <= 1 - QUANTILE:
                return number
        return BUCKETS

    def dump(self) -> list[Any]:
        """Return plain values."""
        return [
            self._buckets, self._factor, self._count, self._from_us, self._greatest_us,
            list(self._least.items()), self._transit_us, self._wait_us, self.jitter_us,
        ]  # fmt: skip

    @classmethod
    def load(cls, data: list[Any], max_wait_us: int) -> Arrivals:
        """Return what ``dump`` gave."""
        found = cls(max_wait_us)
        (found._buckets, found._factor, found._count, found._from_us, found._greatest_us,
         least, found._transit_us, found._wait_us, found.jitter_us) = data  # fmt: skip
        found._least = {slot: transit for slot, transit in least}
        return found
