"""What ``@app.task(…)`` may say of a task, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from millstream.primitives.errors import ConfigurationError
from millstream.tasks.limits import NAME_LENGTH_MAX
from millstream.tasks.retry import DEFAULT_POLICY, RetryPolicy

PRIORITY_MIN = 0
PRIORITY_MAX = 9
PRIORITY_DEFAULT = 5
QUEUE_DEFAULT = "default"
RESULT_TTL_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of one task; durations in microseconds. Raises ConfigurationError for values out of range."""

    policy: RetryPolicy = DEFAULT_POLICY
    queue: str = QUEUE_DEFAULT
    priority: int = PRIORITY_DEFAULT
    acks_late: bool = True
    result_ttl_us: int = RESULT_TTL_US

    def __post_init__(self) -> None:
        """Check what is not checked by its type."""
        check_name("queue", self.queue)
        check_priority(self.priority)
        if self.result_ttl_us < 0:
            raise ConfigurationError(
                "a result cannot be kept for less than no time",
                expected="a duration such as '1d', or '0s' to keep no results",
            )


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
