"""How long to wait before something that failed is tried again. Pure: receives the chance, never draws it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError

_DOUBLINGS_MAX = 62


class Chance(Protocol):
    """A source of chance, such as a seeded ``random.Random``."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


class BackoffKind(StrEnum):
    """How the delay grows from one retry to the next."""

    EXPONENTIAL = "exponential"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The delays between attempts: ``first_us``, doubled each time up to ``longest_us``, or always ``first_us``.

    With jitter a delay is drawn evenly from zero to that value ("full jitter", Marc Brooker, "Exponential Backoff and
    Jitter", AWS 2015), so that tasks which failed together do not come back together.
    """

    kind: BackoffKind
    first_us: int
    longest_us: int
    jitter: bool

    @classmethod
    def exponential(
        cls, first: Duration = "1s", *, longest: Duration = "10m", jitter: bool = True
    ) -> Backoff:
        """Return delays that double. Raises ConfigurationError for a duration that is none."""
        return cls._checked(BackoffKind.EXPONENTIAL, first, longest, jitter=jitter)

    @classmethod
    def constant(cls, delay: Duration = "1s", *, jitter: bool = False) -> Backoff:
        """Return delays that are all the same. Raises ConfigurationError for a duration that is none."""
        return cls._checked(BackoffKind.CONSTANT, delay, delay, jitter=jitter)

    @classmethod
    def _checked(
        cls, kind: BackoffKind, first: Duration, longest: Duration, *, jitter: bool
    ) -> Backoff:
        first_us, longest_us = duration_us(first), duration_us(longest)
        if first_us < 0 or longest_us < first_us:
            raise ConfigurationError(
                f"a backoff cannot grow from {first} to {longest}",
                expected="0 <= first <= longest",
                next_step="swap them, or leave `longest` out",
            )
        return cls(kind=kind, first_us=first_us, longest_us=longest_us, jitter=jitter)

    def bound_us(self, failures: int) -> int:
        """Return the longest delay after that many failures (1 is the first)."""
        if self.kind is BackoffKind.CONSTANT:
            return self.first_us
        # The exponent is bounded before the shift: 2^1000 is a number, but not one to compute for each retry.
        return min(self.longest_us, self.first_us << min(failures - 1, _DOUBLINGS_MAX))

    def delay_us(self, failures: int, chance: Chance) -> int:
        """Return the delay after that many failures."""
        bound = self.bound_us(failures)
        return int(bound * chance.random()) if self.jitter else bound


BackoffLike = str | Backoff

EXPONENTIAL = Backoff(
    kind=BackoffKind.EXPONENTIAL, first_us=1_000_000, longest_us=600_000_000, jitter=True
)
"""What ``"exponential"`` means."""


def backoff_of(value: BackoffLike) -> Backoff:
    """Return the backoff of ``"exponential"`` or ``"constant"``, or the one given."""
    if isinstance(value, Backoff):
        return value
    if value == BackoffKind.EXPONENTIAL:
        return EXPONENTIAL
    if value == BackoffKind.CONSTANT:
        return Backoff.constant()
    raise ConfigurationError(
        f"{value!r} is not a backoff",
        expected="'exponential', 'constant', or Backoff.exponential(…), Backoff.constant(…)",
        next_step="leave it out for 'exponential': 1 s, doubled up to 10 min, with jitter",
    )
