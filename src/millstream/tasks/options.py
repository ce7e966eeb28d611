"""What ``@app.task(…)`` may say of a task, checked once. Celery's words are understood beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import TypedDict, cast

from millstream.primitives.backoff import Backoff, BackoffLike, backoff_of
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schedule_times import Times, TimesLike, times_of
from millstream.primitives.size import Size, size_bytes
from millstream.tasks.attempt_limits import UNLIMITED, AttemptLimits, checked
from millstream.tasks.batch import Batch
from millstream.tasks.gates import limit_of
from millstream.tasks.limits import NAME_LENGTH_MAX, RETRIES_MAX
from millstream.tasks.retry import DEFAULT_POLICY, RetryPolicy, RetryRule, RetryRuleLike
from millstream.tasks.unique import Unique, UniqueLike, unique_of

PRIORITY_MIN = 0
PRIORITY_MAX = 9
PRIORITY_DEFAULT = 5
QUEUE_DEFAULT = "default"
RESULT_TTL_US = 86_400_000_000
Seconds = float | timedelta


class TaskKeywords(TypedDict, total=False):
    """The keyword arguments of ``@app.task``; ``TaskRegistry.task`` says what each does."""

    retries: int
    max_retries: int | None
    backoff: BackoffLike
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    default_retry_delay: float
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    retry_on: Mapping[type[BaseException], RetryRuleLike]
    queue: str
    priority: int
    acks_late: bool
    result_ttl: Duration
    ignore_result: bool
    expires: Seconds
    unique: UniqueLike
    lock: bool | str
    concurrency: int
    rate_limit: str | float
    schedule: TimesLike
    soft_time_limit: Seconds
    time_limit: Seconds
    memory_limit: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of one task; durations in microseconds. Raises ConfigurationError for values out of range."""

    policy: RetryPolicy = DEFAULT_POLICY
    queue: str = QUEUE_DEFAULT
    priority: int = PRIORITY_DEFAULT
    acks_late: bool = True
    result_ttl_us: int = RESULT_TTL_US
    expires_us: int | None = None
    unique: Unique | None = None
    lock: bool | str = False
    concurrency: int | None = None
    rate_limit: str | float | None = None
    schedule: Times | None = None
    batch: Batch | None = None
    limits: AttemptLimits = UNLIMITED

    def __post_init__(self) -> None:
        """Check what is not checked by its type."""
        check_name("queue", self.queue)
        check_priority(self.priority)
        limit_of("", concurrency=self.concurrency, rate=self.rate_limit)
        checked(self.limits)
        if self.result_ttl_us < 0:
            raise ConfigurationError(
                "a result cannot be kept for less than no time",
                expected="a duration such as '1d', or '0s' to keep no results",
            )
        self._check_batch()

    def _check_batch(self) -> None:
        if self.batch is None:
            return
        for option, used in (
            ("lock", bool(self.lock)),
            ("concurrency", self.concurrency is not None),
            ("rate_limit", self.rate_limit is not None),
            ("acks_late=False", not self.acks_late),
        ):
            if used:
                raise ConfigurationError(
                    f"a batch cannot have {option}",
                    expected="a task with either of them",
                    next_step="give it a queue of its own, and as many workers there as may run at once",
                )


def options_of(keywords: TaskKeywords, *, batch: Batch | None = None) -> TaskOptions:
    """Return the options that the keywords mean. Raises ConfigurationError, also for one that there is not."""
    _refuse_unknown(keywords)
    ttl_us = duration_us(keywords.get("result_ttl", "1d"))
    return TaskOptions(
        policy=_policy_of(keywords),
        queue=keywords.get("queue", QUEUE_DEFAULT),
        priority=keywords.get("priority", PRIORITY_DEFAULT),
        acks_late=keywords.get("acks_late", True),
        result_ttl_us=0 if keywords.get("ignore_result") else ttl_us,
        expires_us=seconds_us(keywords["expires"]) if "expires" in keywords else None,
        unique=unique_of(keywords.get("unique", False)),
        lock=keywords.get("lock", False),
        concurrency=keywords.get("concurrency"),
        rate_limit=keywords.get("rate_limit"),
        schedule=times_of(keywords["schedule"]) if "schedule" in keywords else None,
        batch=batch,
        limits=AttemptLimits(
            soft_us=_limit_us(keywords.get("soft_time_limit")),
            hard_us=_limit_us(keywords.get("time_limit")),
            memory_bytes=size_bytes(keywords["memory_limit"])
            if "memory_limit" in keywords
            else None,
        ),
    )


def _limit_us(value: Seconds | None) -> int | None:
    return None if value is None else seconds_us(value)


_SAME = (
    ("retries", "max_retries"),
    ("backoff", "retry_backoff", "retry_backoff_max", "retry_jitter", "default_retry_delay"),
    ("result_ttl", "ignore_result"),
)
"""Words for one thing: who says one of them does not inherit the others."""


def with_defaults(own: TaskKeywords, defaults: TaskKeywords) -> TaskKeywords:
    """Return what a task says of itself, and what it leaves open as ``defaults`` say."""
    said = set(own)
    for words in _SAME:
        if said.intersection(words):
            said.update(words)
    inherited = {key: value for key, value in defaults.items() if key not in said}
    return cast(TaskKeywords, {**inherited, **own})


def _refuse_unknown(keywords: TaskKeywords) -> None:
    known = TaskKeywords.__annotations__
    for key in keywords:
        if key not in known:
            near = get_close_matches(key, known, 1)
            raise ConfigurationError(
                f"a task has no option {key!r}",
                expected=", ".join(sorted(known)),
                next_step=f"did you mean {near[0]!r}?" if near else "leave it out",
            )


def _policy_of(keywords: TaskKeywords) -> RetryPolicy:
    backoff = _backoff_of(keywords)
    retries = keywords.get("retries", keywords.get("max_retries", DEFAULT_POLICY.retries))
    rules = tuple(
        RetryRule(error, *_rule_of(rule, backoff))
        for error, rule in keywords.get("retry_on", {}).items()
    )
    return RetryPolicy(
        RETRIES_MAX if retries is None else retries,
        backoff,
        tuple(keywords.get("autoretry_for", (Exception,))),
        tuple(keywords.get("dont_autoretry_for", ())),
        rules,
    )


def _rule_of(rule: RetryRuleLike, backoff: Backoff) -> tuple[int, Backoff]:
    if isinstance(rule, tuple):
        return rule[0], backoff_of(rule[1])
    return rule, backoff


def _backoff_of(keywords: TaskKeywords) -> Backoff:
    """Return our backoff, or what Celery's words mean: ``retry_backoff`` grows, ``default_retry_delay`` does not."""
    if "backoff" in keywords:
        return backoff_of(keywords["backoff"])
    grows = keywords.get("retry_backoff", False)
    jitter = keywords.get("retry_jitter", True)
    if grows is not False:
        first = timedelta(seconds=1 if grows is True else grows)
        longest = timedelta(seconds=keywords.get("retry_backoff_max", 600))
        return Backoff.exponential(first, longest=max(longest, first), jitter=jitter)
    if "default_retry_delay" in keywords:
        return Backoff.constant(timedelta(seconds=keywords["default_retry_delay"]))
    return Backoff.exponential(jitter=jitter)


def seconds_us(value: Seconds) -> int:
    """Return microseconds of Celery's seconds, or of a timedelta."""
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    return round(value * 1_000_000)


def check_name(kind: str, name: str) -> None:
    """Raise ConfigurationError unless ``name`` is 1 to 249 printable characters without a comma."""
    if not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable() or "," in name:
        raise ConfigurationError(
            f"{name[:80]!r} cannot be the name of a {kind}",
            expected=f"1 to {NAME_LENGTH_MAX} printable characters, no comma",
        )


def check_priority(priority: int) -> None:
    """Raise ConfigurationError unless ``priority`` is 0 to 9."""
    if not PRIORITY_MIN <= priority <= PRIORITY_MAX:
        raise ConfigurationError(
            f"{priority!r} is not a priority",
            expected=f"{PRIORITY_MIN} to {PRIORITY_MAX}; {PRIORITY_MAX} runs first",
        )
