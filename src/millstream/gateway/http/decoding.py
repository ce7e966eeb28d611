"""Bodies of requests as events: JSON that fits the columns of a topic, checked while it is parsed.

An object is an event, an array holds several, JSON lines hold one a line. Every column of the topic that may not be
null must be there, and nothing else may be. Times are ISO 8601 with a zone, bytes base64, decimals and durations texts.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from types import GenericAlias
from typing import Annotated, Any, Final

import msgspec
import pyarrow as pa
from msgspec import Meta

from millstream.gateway.http.answer import Refusal
from millstream.log.definition import TopicInfo
from millstream.primitives.schema import describe

JSON: Final = ("application/json", "text/json", "")
JSON_LINES: Final = (
    "application/jsonl", "application/x-jsonl", "application/jsonlines", "application/json-lines",
    "application/ndjson", "application/x-ndjson",
)  # fmt: skip
_AT: Final = " - at `"


class RowDecoder:
    """Decodes bodies for one schema. Thread-safe."""

    def __init__(self, topic: TopicInfo) -> None:
        """Compile the schema to what the parser checks."""
        self._topic = topic
        row, self._plain = _struct(topic.schema)
        self._one: msgspec.json.Decoder[Any] = msgspec.json.Decoder(row)
        self._many: msgspec.json.Decoder[Any] = msgspec.json.Decoder(GenericAlias(list, (row,)))

    def events(self, body: bytes, *, lines: bool) -> list[dict[str, Any]]:
        """Return the events of a body. Raises Refusal: 400 for what is no JSON, 422 for what does not fit."""
        try:
            if lines:
                found = self._one.decode_lines(body)
            elif body.lstrip()[:1] == b"[":
                found = self._many.decode(body)
            else:
                found = [self._one.decode(body)]
        except msgspec.ValidationError as error:
            what, _, at = str(error).partition(_AT)
            raise Refusal(
                422,
                what,
                where=f"topic {self._topic.name!r}, {at.rstrip('`') or '$'}",
                expected=describe(self._topic.schema),
                next_step="send values of these types; times as 2026-01-01T12:00:00Z, bytes as base64",
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(
                400,
                f"the body is not JSON: {error}",
                where=f"topic {self._topic.name!r}",
                expected="JSON lines" if lines else "a JSON object, or an array of them",
            ) from error
        return [self._plain(row) for row in found]


def _struct(fields: Any) -> tuple[type, Callable[[Any], dict[str, Any]]]:  # noqa: ANN401 - a schema or a struct type
    """Return a type for the parser with these columns, and what makes dicts of its values."""
    columns, readers, renamed = [], [], {}
    for number, field in enumerate(fields):
        kind, plain = _kind(field.type)
        name = f"f{number}"
        columns.append((name, kind | None, None) if field.nullable else (name, kind))
        readers.append((name, field.name, plain))
        renamed[name] = field.name
    made = msgspec.defstruct(
        "Row", columns, kw_only=True, rename=renamed, forbid_unknown_fields=True
    )

    def to_dict(row: Any) -> dict[str, Any]:  # noqa: ANN401 - made above
        return {
            key: value if plain is None or value is None else plain(value)
            for name, key, plain in readers
            for value in (getattr(row, name),)
        }

    return made, to_dict


def _kind(kind: pa.DataType) -> tuple[Any, Callable[[Any], Any] | None]:
    """Return what the parser is told of a type, and what is done with its values then."""
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_struct(kind):
        return _struct(kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item, plain = _kind(kind.value_type)
        items = GenericAlias(list, (item | None,))
        if plain is None:
            return items, None
        return items, lambda values: [v if v is None else plain(v) for v in values]
    for fits, found in _KINDS:
        if fits(kind):
            return found, None
    if pa.types.is_integer(kind):
        return _integer(kind), None
    if pa.types.is_timestamp(kind):
        return Annotated[datetime.datetime, Meta(tz=kind.tz is not None)], None
    # What no JSON value is surely of: the topic itself refuses what does not fit.
    return object, None


def _integer(kind: pa.DataType) -> Any:  # noqa: ANN401 - a type with a bound
    if pa.types.is_signed_integer(kind):
        half = 2 ** (kind.bit_width - 1)
        return Annotated[int, Meta(ge=-half, le=half - 1)]
    return Annotated[int, Meta(ge=0, le=min(2**kind.bit_width, 2**63) - 1)]


_KINDS: Final[tuple[tuple[Callable[[pa.DataType], bool], Any], ...]] = (
    (pa.types.is_boolean, bool),
    (pa.types.is_floating, float),
    (pa.types.is_string, str),
    (pa.types.is_large_string, str),
    (pa.types.is_string_view, str),
    (pa.types.is_binary, bytes),
    (pa.types.is_large_binary, bytes),
    (pa.types.is_binary_view, bytes),
    (pa.types.is_fixed_size_binary, bytes),
    (pa.types.is_decimal, Decimal),
    (pa.types.is_date, datetime.date),
    (pa.types.is_time, datetime.time),
    (pa.types.is_duration, datetime.timedelta),
)
