"""When a failed attempt is followed by another, and after how long. Pure: receives the chance, never draws it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError, PayloadError, Reject, Retry
from millstream.tasks.limits import RETRIES_MAX

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


def backoff_of(value: BackoffLike) -> Backoff:
    """Return the backoff of ``"exponential"`` or ``"constant"``, or the one given."""
    if isinstance(value, Backoff):
        return value
    if value == BackoffKind.EXPONENTIAL:
        return Backoff.exponential()
    if value == BackoffKind.CONSTANT:
        return Backoff.constant()
    raise ConfigurationError(
        f"{value!r} is not a backoff",
        expected="'exponential', 'constant', or Backoff.exponential(…), Backoff.constant(…)",
        next_step="leave it out for 'exponential': 1 s, doubled up to 10 min, with jitter",
    )


RetryRuleLike = int | tuple[int, BackoffLike]


@dataclass(frozen=True, slots=True)
class RetryRule:
    """How often and after what delays a task is tried again that failed with ``error``; 0 times means never."""

    error: type[BaseException]
    retries: int
    backoff: Backoff


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, for which errors and after what delays a failed task is tried again.

    The first of ``rules`` that fits the error decides; if there is none, an error of ``retry_for`` that is none of
    ``never_for`` is retried.
    """

    retries: int = 3
    backoff: Backoff = Backoff(
        kind=BackoffKind.EXPONENTIAL, first_us=1_000_000, longest_us=600_000_000, jitter=True
    )
    retry_for: tuple[type[BaseException], ...] = (Exception,)
    never_for: tuple[type[BaseException], ...] = ()
    rules: tuple[RetryRule, ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigurationError for a number of retries without an end."""
        for retries in (self.retries, *(rule.retries for rule in self.rules)):
            if not 0 <= retries <= RETRIES_MAX:
                raise ConfigurationError(
                    f"{retries!r} retries",
                    expected=f"0 to {RETRIES_MAX}",
                    next_step="raise the backoff instead, if the task must wait for long",
                )

    def rule_for(self, error: BaseException) -> RetryRule | None:
        """Return what holds for this error; None means that it is not one to retry for."""
        for rule in self.rules:
            if isinstance(error, rule.error):
                return rule
        if isinstance(error, self.retry_for) and not isinstance(error, self.never_for):
            return RetryRule(type(error), self.retries, self.backoff)
        return None


DEFAULT_POLICY = RetryPolicy()
"""Also what an unknown task is tried with: another worker, or a newer release, may know it."""
NO_RETRIES = RetryPolicy(retries=0)
"""What a task is judged by that has found for itself that no retry is left."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """There is another attempt after ``delay_us``."""

    delay_us: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """There is none, because of ``why``."""

    why: str


Verdict = TryAgain | GiveUp


def after_failure(
    policy: RetryPolicy, *, failures: int, error: BaseException, chance: Chance
) -> Verdict:
    """Decide what follows failure number ``failures`` (1 is the first).

    Arguments or a result that cannot be read or stored will not be better next time: they are given up at once.
    ``Retry`` and ``Reject`` come from the task itself; only the greatest bound of all holds for them.
    """
    if isinstance(error, PayloadError):
        return GiveUp("another attempt would fail the same way")
    if isinstance(error, Reject):
        again = error.requeue and failures <= RETRIES_MAX
        return TryAgain(0) if again else GiveUp("the task rejected it")
    if isinstance(error, Retry) and failures <= RETRIES_MAX:
        delay_us = error.delay_us
        return TryAgain(policy.backoff.delay_us(failures, chance) if delay_us is None else delay_us)
    rule = policy.rule_for(error)
    if rule is None:
        return GiveUp(f"{type(error).__name__} is not one that the task retries for")
    if failures > rule.retries:
        return GiveUp(f"all {rule.retries} retries are used" if rule.retries else "no retries")
    return TryAgain(rule.backoff.delay_us(failures, chance))
