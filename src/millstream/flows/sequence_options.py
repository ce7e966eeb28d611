"""What a sequence does with numbers that are missing, late, out of order or twice: options that were checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import MillstreamError, PlanError
from millstream.primitives.size import Size, size_bytes

Wait: TypeAlias = Duration | float
"""A duration, or seconds as a number."""
GapPolicy: TypeAlias = Literal["emit", "hold", "request", "fail"]
LatePolicy: TypeAlias = Literal["side", "drop"]
Overflow: TypeAlias = Literal["close_gap", "block"]

AUTO: Final = "auto"
FIRST: Final = "first"
NEVER_US: Final = 2**70
_INT64: Final = 2**63
_MEMORY_MAX: Final = 2**20
"""How far back a key may remember: eight bytes for each number."""
_WHERE: Final = "sequence"


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """How a ``Sequencer`` works. Immutable; ``dataclasses.replace`` makes another one. Raises PlanError.

    ``wait``: how long a gap stays open: a duration, seconds, or ``"auto"``: what 95 % of the events need, between
    ``min_wait`` and ``max_wait`` (0 and 2 s unless said). ``gap``: what becomes of it then: ``"emit"`` a record and go
    on, ``"hold"`` for ever, ``"request"`` it again until then, ``"fail"``. ``late``: events of closed gaps go to a side
    output, or are only counted. ``start``: the number that each key begins with, or its first event. ``modulo``: where
    numbers wrap. ``max_events`` wait of one key, payloads of ``max_bytes`` of all keys; beyond that ``overflow`` closes
    the oldest gap or holds back the source. Numbers more than ``max_dropout`` ahead or ``max_misorder`` behind are
    believed when the next one follows. At most ``max_keys`` are remembered, each for ``forget`` after its last event
    (None: as long as there is room).
    """

    wait: Wait = "2s"
    min_wait: Wait | None = None
    max_wait: Wait | None = None
    gap: GapPolicy = "emit"
    late: LatePolicy = "side"
    start: int | Literal["first"] = FIRST
    modulo: int | None = None
    max_events: int = 10_000
    max_bytes: Size = "256MiB"
    overflow: Overflow = "close_gap"
    max_dropout: int = 3_000
    max_misorder: int = 100
    max_keys: int = 1_000_000
    forget: Duration | None = "1d"

    wait_us: int | None = field(init=False, repr=False, compare=False)
    """None if it is found out."""
    min_wait_us: int = field(init=False, repr=False, compare=False)
    max_wait_us: int = field(init=False, repr=False, compare=False)
    max_size: int = field(init=False, repr=False, compare=False)
    forget_us: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check everything."""
        for name, allowed in (("gap", GapPolicy), ("late", LatePolicy), ("overflow", Overflow)):
            _refuse_other(name, getattr(self, name), get_args(allowed))
        for name, least, most in (
            ("max_events", 1, _INT64 - 1),
            ("max_dropout", 1, _INT64 - 1),
            ("max_misorder", 1, _MEMORY_MAX),
            ("max_keys", 1, _INT64 - 1),
        ):
            _refuse_number(name, getattr(self, name), least, most)
        if self.modulo is not None:
            _refuse_number("modulo", self.modulo, 2, _INT64 - 1)
            self._refuse_narrow(self.modulo)
        self._refuse_start()
        self._keep("max_size", _parsed("max_bytes", size_bytes, self.max_bytes))
        forget_us = NEVER_US if self.forget is None else _parsed("forget", duration_us, self.forget)
        self._keep("forget_us", forget_us)
        if self.max_size < 1 or self.forget_us < 1:
            raise PlanError(
                f"max_bytes={self.max_bytes!r}, forget={self.forget!r}",
                where=_WHERE,
                expected="more than nothing",
                next_step='write for example max_bytes="64MiB", forget="1h"',
            )
        self._set_waits()

    def _set_waits(self) -> None:
        auto = self.wait == AUTO
        if not auto and (self.min_wait is not None or self.max_wait is not None):
            raise PlanError(
                f"min_wait and max_wait with wait={self.wait!r}",
                where=_WHERE,
                expected='them only with wait="auto"',
                next_step="leave them out, or let the wait be found out",
            )
        self._keep("wait_us", None if auto else _wait_us("wait", self.wait))
        self._keep(
            "min_wait_us", _wait_us("min_wait", "0s" if self.min_wait is None else self.min_wait)
        )
        self._keep(
            "max_wait_us", _wait_us("max_wait", "2s" if self.max_wait is None else self.max_wait)
        )
        if (auto and not 0 <= self.min_wait_us <= self.max_wait_us) or self.max_wait_us < 1_000:
            raise PlanError(
                f"min_wait={self.min_wait!r}, max_wait={self.max_wait!r}",
                where=_WHERE,
                expected="max_wait of 1 ms or more, and min_wait of at most as much",
                next_step='write for example min_wait="20ms", max_wait="2s"',
            )

    def _refuse_narrow(self, modulo: int) -> None:
        if 2 * max(self.max_dropout, self.max_misorder) >= modulo:
            raise PlanError(
                f"modulo={modulo} with max_dropout={self.max_dropout}, max_misorder={self.max_misorder}",
                where=_WHERE,
                expected="both below half of it, or nobody knows which lap a number belongs to",
                next_step="make them smaller",
            )

    def _refuse_start(self) -> None:
        if self.start == FIRST:
            return
        most = _INT64 - 1 if self.modulo is None else self.modulo - 1
        if not is_integer(self.start) or not -_INT64 <= self.start <= most:
            raise PlanError(
                f"start={self.start!r}",
                where=_WHERE,
                expected='"first", or the whole number that each key begins with',
                next_step='write start=1, or leave it at "first"',
            )
        if self.modulo is not None and self.start < 0:
            _refuse_number("start", self.start, 0, most)

    def _keep(self, name: str, value: int | None) -> None:
        object.__setattr__(self, name, value)


def audio_video(*, modulo: int | None = 2**16, max_wait: Wait = "2s") -> SequenceOptions:
    """Return options for sound and pictures: emit gaps, drop what is late, find out the wait; RTP's 16 bits.

    Raises PlanError.
    """
    return SequenceOptions(
        wait=AUTO, max_wait=max_wait, gap="emit", late="drop", modulo=modulo, max_events=1_000
    )


def ledger(*, start: int | Literal["first"] = FIRST, max_events: int = 10_000) -> SequenceOptions:
    """Return options for books: hold until complete, and hold back the source rather than leave out or forget.

    Raises PlanError.
    """
    return SequenceOptions(
        gap="hold", start=start, max_events=max_events, overflow="block", forget=None
    )


def is_integer(value: object) -> bool:
    """Return whether it is a whole number, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_other(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise PlanError(
            f"{name}={value!r}",
            where=_WHERE,
            expected=f"one of {', '.join(map(repr, allowed))}",
            next_step=f"write for example {name}={allowed[0]!r}",
        )


def _refuse_number(name: str, value: int, least: int, most: int) -> None:
    if not is_integer(value) or not least <= value <= most:
        raise PlanError(
            f"{name}={value!r}",
            where=_WHERE,
            expected=f"a whole number from {least:,} to {most:,}",
            next_step=f"write for example {name}={max(least, min(most, 1_000))}",
        )


def _wait_us(name: str, value: Wait) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value < _INT64 / 1e6:
            raise PlanError(
                f"{name}={value!r}",
                where=_WHERE,
                expected="seconds, not negative",
                next_step=f"write for example {name}=2.5",
            )
        return round(value * 1_000_000)
    if isinstance(value, bool):
        _refuse_other(name, value, ("2s", "250ms"))
    return _parsed(name, duration_us, value)


def _parsed(name: str, parse: object, value: object) -> int:
    try:
        return int(parse(value))  # type: ignore[operator]  # one of two parsers with types of their own
    except MillstreamError as error:
        raise PlanError(
            f"{name}: {error.what}",
            where=_WHERE,
            expected=error.expected,
            next_step=error.next_step,
        ) from error
