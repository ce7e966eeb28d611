"""Python values as bytes: MessagePack through msgspec. Never pickle."""

from __future__ import annotations

from typing import Any

import msgspec

from millstream.primitives.errors import PayloadError

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()
_REFUSED = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def encode(value: object) -> bytes:
    """Return the MessagePack bytes of plain values, datetimes, dataclasses and msgspec structs.

    Raises PayloadError for what cannot be stored.
    """
    try:
        return _encoder.encode(value)
    except _REFUSED as error:
        raise PayloadError(
            f"a {type(value).__name__} cannot be stored: {error}",
            expected="numbers, text, bytes, datetimes, lists, dicts, dataclasses or msgspec structs",
            next_step="pass plain data, or the id of what is stored elsewhere",
        ) from error


def decode(data: bytes, kind: Any = None) -> Any:  # noqa: ANN401 - the kind is the caller's type
    """Return the value, converted to ``kind`` where one is given. Raises PayloadError."""
    try:
        if kind is None:
            return _decoder.decode(data)
        return msgspec.msgpack.decode(data, type=kind)
    except _REFUSED as error:
        raise PayloadError(
            f"stored bytes cannot be read: {error}",
            expected=str(kind) if kind is not None else "MessagePack",
            next_step="read them with the code that wrote them",
        ) from error
