"""Backoff, and whether there is another attempt."""

from __future__ import annotations

from random import Random

import pytest

from millstream.primitives.backoff import Backoff, backoff_of
from millstream.primitives.errors import ConfigurationError, PayloadError
from millstream.tasks.limits import RETRIES_MAX
from millstream.tasks.retry import GiveUp, RetryPolicy, TryAgain, after_failure

SURE = Random(1)


def test_exponential_doubles_up_to_the_longest() -> None:
    backoff = Backoff.exponential("1s", longest="10s", jitter=False)
    assert [backoff.delay_us(n, SURE) // 1_000_000 for n in (1, 2, 3, 4, 5, 1_000)] == [
        1,
        2,
        4,
        8,
        10,
        10,
    ]


def test_constant_stays() -> None:
    assert [Backoff.constant("2s").delay_us(n, SURE) for n in (1, 9)] == [2_000_000, 2_000_000]


def test_full_jitter_is_between_nothing_and_the_bound_and_repeats_with_its_seed() -> None:
    backoff = Backoff.exponential()
    delays = [backoff.delay_us(3, Random(seed)) for seed in range(200)]
    assert all(0 <= delay < 4_000_000 for delay in delays)
    assert min(delays) < 400_000
    assert max(delays) > 3_600_000
    assert delays[7] == backoff.delay_us(3, Random(7))


@pytest.mark.parametrize("name", ["exponential", "constant"])
def test_names(name: str) -> None:
    assert backoff_of(name).kind == name
    assert backoff_of(backoff_of(name)) == backoff_of(name)


def test_bad_backoffs_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="fibonacci"):
        backoff_of("fibonacci")
    with pytest.raises(ConfigurationError, match="grow"):
        Backoff.exponential("10s", longest="1s")


def test_retries_are_counted() -> None:
    policy = RetryPolicy(retries=2)
    verdicts = [
        after_failure(policy, failures=n, error=ValueError(), chance=SURE) for n in (1, 2, 3)
    ]
    assert [type(one) for one in verdicts] == [TryAgain, TryAgain, GiveUp]


def test_only_the_named_errors_are_retried() -> None:
    policy = RetryPolicy(retry_for=(OSError,))
    assert isinstance(
        after_failure(policy, failures=1, error=ConnectionError(), chance=SURE), TryAgain
    )
    assert isinstance(after_failure(policy, failures=1, error=ValueError(), chance=SURE), GiveUp)
    assert isinstance(after_failure(policy, failures=1, error=SystemExit(), chance=SURE), GiveUp)


def test_what_cannot_be_stored_is_given_up_at_once() -> None:
    verdict = after_failure(RetryPolicy(), failures=1, error=PayloadError("no"), chance=SURE)
    assert isinstance(verdict, GiveUp)


def test_retries_have_an_end() -> None:
    assert RetryPolicy(retries=RETRIES_MAX).retries == RETRIES_MAX
    for retries in (-1, RETRIES_MAX + 1):
        with pytest.raises(ConfigurationError, match="retries"):
            RetryPolicy(retries=retries)
