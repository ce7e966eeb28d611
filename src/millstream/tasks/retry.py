"""When a failed attempt is followed by another, and after how long. Pure: receives the chance, never draws it."""

from __future__ import annotations

from dataclasses import dataclass

from millstream.primitives.backoff import EXPONENTIAL, Backoff, BackoffLike, Chance
from millstream.primitives.errors import ConfigurationError, PayloadError, Reject, Retry
from millstream.tasks.limits import RETRIES_MAX

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
    backoff: Backoff = EXPONENTIAL
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
