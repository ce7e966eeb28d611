"""``unique=``: calls that mean the same are stored once. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError
from millstream.tasks.arguments import to_plain

_encoder = msgspec.msgpack.Encoder(enc_hook=to_plain, order="deterministic")
_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Unique:
    """Calls of a task with the same values of the parameters ``by`` (all, when empty) are stored once.

    The first one stands for the others until it has ended, and for ``period`` after it was sent, whichever is longer.
    """

    by: tuple[str, ...] = ()
    period: Duration = "0s"

    @property
    def period_us(self) -> int:
        """The period in microseconds."""
        return duration_us(self.period)


UniqueLike = bool | str | Unique


def unique_of(value: UniqueLike) -> Unique | None:
    """Return the rule of ``True``, a period such as ``"10m"``, or ``Unique(…)``; None for False."""
    if isinstance(value, bool):
        return Unique() if value else None
    if isinstance(value, str):
        value = Unique(period=value)
    if not isinstance(value, Unique):
        raise ConfigurationError(
            f"{value!r} does not say what is unique",
            expected="True, a period such as '10m', or ms.Unique(by=('user',), period='10m')",
        )
    duration_us(value.period)  # Refused here, not at the first call.
    return value


def unique_key(task: str, unique: Unique, arguments: Mapping[str, Any]) -> str:
    """Return what calls that mean the same have in common. Raises ConfigurationError for an unknown parameter."""
    names = unique.by or tuple(arguments)
    missing = [name for name in names if name not in arguments]
    if missing:
        raise ConfigurationError(
            f"unique by {', '.join(missing)}, which is no parameter",
            where=f"task {task!r}",
            expected=", ".join(arguments),
        )
    data = _encoder.encode([task, {name: arguments[name] for name in names}])
    return blake2b(data, digest_size=_KEY_BYTES).hexdigest()
