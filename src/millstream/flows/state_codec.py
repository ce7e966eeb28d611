"""How the state of a key becomes bytes and comes back: as the same values, or not at all.

A stream keeps the state of a key in memory, and reads it from the store only when it is started again. What came back
as something else then (a date as a text, a tuple as a list) would make the output hang on when that happened, and what
does not fit the type could not be read at all. So bytes are read back before they count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Final, TypeAlias

import msgspec

from millstream.flows.keyed_context import State
from millstream.primitives.errors import PlanError

Pair: TypeAlias = tuple[State, State, str]
"""A part of a state, what comes back of it, and where it is."""

_SHOWN: Final = 60


class StateCodec:
    """How the state of a key is made, and becomes bytes and back. Immutable.

    What ``msgspec`` can: dataclasses, structs, typed dicts, lists, dicts, sets, numbers, texts, bytes, dates, times.
    """

    def __init__(self, kind: State, *, where: str) -> None:
        """Raise PlanError unless ``kind`` can be called without arguments, and its values can be stored."""
        self.kind = kind
        self._encoder = msgspec.msgpack.Encoder()
        try:
            self._decoder = msgspec.msgpack.Decoder(kind)
            self.encode(self.fresh())
        except (TypeError, ValueError, NotImplementedError, OverflowError) as error:
            raise PlanError(
                f"state={self.text()} cannot be kept: {error}",
                where=where,
                expected="a type that can be called without arguments: a dataclass whose fields have defaults, "
                "dict, list[int], int, …",
                next_step="give each field a default, of a type such as int, str, datetime, list or dict",
            ) from error

    def text(self) -> str:
        """Return the name of the type."""
        return "None" if self.kind is None else getattr(self.kind, "__qualname__", str(self.kind))

    def fresh(self) -> State:
        """Return the state of a key that nothing is known of."""
        return None if self.kind is None else self.kind()

    def encode(self, state: State) -> bytes:
        """Return it as bytes that give the same state back.

        Raises TypeError or OverflowError for values that cannot be stored, and ValueError for those that are not of the
        type or would come back as others.
        """
        data = self._encoder.encode(state)
        back = self._decoder.decode(data)
        # Comparing by == is fast and nearly always enough; NaN, for one, does not equal itself.
        if back != state and (change := changed(state, back)) is not None:
            raise ValueError(change)
        return data

    def decode(self, data: bytes) -> State:
        """Return the state. Raises msgspec.ValidationError (a ValueError) for that of another type."""
        return self._decoder.decode(data)


def changed(
    kept: State, back: State, place: str = "it", *, lists_for_tuples: bool = False
) -> str | None:
    """Return what would come back as something else, and where it is in the state; None if nothing would.

    ``lists_for_tuples``: a tuple may come back as a list.
    """
    if kept == back or (kept != kept and back != back):
        return None
    if lists_for_tuples and isinstance(kept, tuple) and isinstance(back, list):
        kept = list(kept)
    if type(kept) is type(back):
        parts = _parts(kept, back, place)
        if parts is not None:
            changes = (changed(*part, lists_for_tuples=lists_for_tuples) for part in parts)
            return next((change for change in changes if change is not None), None)
    return f"{place} is {_shown(kept)} and would come back as {_shown(back)}"


def _parts(kept: State, back: State, place: str) -> Iterable[Pair] | None:
    """Return what two values of one type are made of, side by side; None if that cannot be said."""
    if isinstance(kept, Mapping):
        if kept.keys() != back.keys():
            return None
        return ((kept[key], back[key], f"{place}[{key!r}]") for key in kept)
    if isinstance(kept, list | tuple):
        return _items(kept, back, place)
    names = getattr(kept, "__struct_fields__", None) or [
        each.name for each in (fields(kept) if is_dataclass(kept) else ())
    ]
    if not names:
        return None
    return (
        (getattr(kept, name, None), getattr(back, name, None), f"{place}.{name}") for name in names
    )


def _items(kept: Sequence[State], back: Sequence[State], place: str) -> Iterable[Pair] | None:
    if len(kept) != len(back):
        return None
    both = zip(kept, back, strict=True)
    return ((one, other, f"{place}[{number}]") for number, (one, other) in enumerate(both))


def _shown(value: State) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
