"""What a topic is: its name, columns, partitions and how long it keeps events."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError, SchemaError, TopicExists
from millstream.primitives.limits import PARTITIONS_MAX, TOPIC_NAME_LENGTH_MAX
from millstream.primitives.schema import TIMESTAMP, SchemaLike, describe, to_arrow_schema

_NAME = re.compile(r"[A-Za-z0-9._-]+")

PLAIN_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field(
            "headers",
            pa.list_(
                pa.struct(
                    [pa.field("name", pa.string(), nullable=False), pa.field("value", pa.binary())]
                )
            ),
        ),
        pa.field("timestamp", TIMESTAMP),
    ]
)
"""The columns of a plain topic: an event is a key and a value of bytes, with headers, as in Kafka."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as the user asks for it."""

    name: str
    schema: pa.Schema
    typed: bool
    key: str | None
    partitions: int
    retention_us: int | None
    retention_bytes: int | None
    compaction: bool


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is stored."""

    id: int
    name: str
    schema: pa.Schema
    schema_id: int
    typed: bool
    key: str | None
    partition_ids: tuple[int, ...]
    retention_us: int | None
    retention_bytes: int | None
    compaction: bool

    @property
    def partitions(self) -> int:
        """How many partitions it has."""
        return len(self.partition_ids)


def topic_spec(
    name: str,
    *,
    schema: SchemaLike | None,
    key: str | None,
    partitions: int,
    retention: Duration | None,
    retention_bytes: int | None,
    compaction: bool,
) -> TopicSpec:
    """Return the definition, checked. Raises ConfigurationError or SchemaError."""
    _check_name(name)
    arrow = PLAIN_SCHEMA if schema is None else to_arrow_schema(schema)
    if schema is None:
        key = "key"
    if key is not None and key not in arrow.names:
        raise SchemaError(
            f"the key {key!r} is not a column",
            where=f"topic {name!r}",
            expected=describe(arrow),
            next_step="name one of the columns",
        )
    if key is not None:
        _check_key_type(name, arrow.field(key))
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise ConfigurationError(
            f"{partitions} partitions",
            where=f"topic {name!r}",
            expected=f"1 to {PARTITIONS_MAX}",
            next_step="leave it out for one; a few for each process that shall read at once",
        )
    if compaction and key is None:
        raise ConfigurationError(
            "compaction keeps the last event of each key, and there is no key",
            where=f"topic {name!r}",
            expected="a key column",
            next_step="name the key column with key=",
        )
    if retention_bytes is not None and retention_bytes <= 0:
        raise ConfigurationError(
            f"retention_bytes is {retention_bytes}",
            where=f"topic {name!r}",
            expected="a positive number",
            next_step="leave it out to keep everything",
        )
    retention_us = None if retention is None else duration_us(retention)
    return TopicSpec(
        name, arrow, schema is not None, key, partitions, retention_us, retention_bytes, compaction
    )


def _check_name(name: object) -> None:
    fits = isinstance(name, str) and _NAME.fullmatch(name) and len(name) <= TOPIC_NAME_LENGTH_MAX
    if not fits or name in {".", ".."}:
        raise ConfigurationError(
            f"{name!r} cannot be the name of a topic",
            where="topic",
            expected=f"1 to {TOPIC_NAME_LENGTH_MAX} letters, digits, '.', '_' or '-' (as in Kafka)",
            next_step="leave out or replace the other characters",
        )


def _check_key_type(name: str, field: pa.Field) -> None:
    kind = field.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not (is_text or is_bytes or pa.types.is_integer(kind)):
        raise SchemaError(
            f"the key {field.name!r} is {kind}",
            where=f"topic {name!r}",
            expected="text, bytes or an integer: keys choose the partition by their bytes",
            next_step="choose another column, or make a text of it",
        )


def reconcile(existing: TopicInfo, spec: TopicSpec) -> pa.Schema | None:
    """Return the new schema if ``spec`` adds nullable columns to ``existing``, None if the columns are the same.

    Raises TopicExists for any other difference of columns, key or partitions, naming it. Retention and compaction may
    change freely.
    """
    _refuse_difference(existing, "partitions", existing.partitions, spec.partitions)
    _refuse_difference(existing, "key", existing.key, spec.key)
    _refuse_difference(existing, "typed", existing.typed, spec.typed)
    if existing.schema.equals(spec.schema):
        return None
    for field in existing.schema:
        asked = spec.schema.field(field.name) if field.name in spec.schema.names else "nothing"
        _refuse_difference(existing, f"column {field.name!r}", field, asked)
    for field in spec.schema:
        if field.name not in existing.schema.names and not field.nullable:
            raise TopicExists(
                f"the new column {field.name!r} may not be null, but older events do not have it",
                where=f"topic {existing.name!r}",
                expected=describe(existing.schema),
                next_step="declare the new column with `| None`",
            )
    return spec.schema


def _refuse_difference(existing: TopicInfo, what: str, have: object, asked: object) -> None:
    # In this order: an Arrow field that is not there is a missing column, and cannot be compared with one.
    if type(have) is not type(asked) or have != asked:
        raise TopicExists(
            f"the topic exists with another {what}: {have} and not {asked}",
            where=f"topic {existing.name!r}",
            expected=str(have),
            next_step="use the stored definition, another name, or delete the topic first",
        )
