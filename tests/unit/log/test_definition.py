"""What a topic is: names, keys, partitions, retention, and which declaration changes which."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from millstream.log.definition import (
    PLAIN_SCHEMA,
    TopicInfo,
    TopicSpec,
    reconcile,
    topic_spec,
)
from millstream.primitives.errors import ConfigurationError, SchemaError, TopicExists
from millstream.primitives.limits import PARTITIONS_MAX, TOPIC_NAME_LENGTH_MAX
from tests.refusals import refused

SCHEMA = {"user": str, "n": int, "price": float | None}


def spec(name: str = "clicks", **options: Any) -> TopicSpec:
    settings: dict[str, Any] = {
        "schema": SCHEMA,
        "key": None,
        "partitions": 1,
        "retention": None,
        "retention_bytes": None,
        "compaction": False,
    }
    return topic_spec(name, **{**settings, **options})


def stored(made: TopicSpec) -> TopicInfo:
    return TopicInfo(
        1,
        made.name,
        made.schema,
        1,
        made.typed,
        made.key,
        tuple(range(made.partitions)),
        made.retention_us,
        made.retention_bytes,
        made.compaction,
    )


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "..a", "x" * TOPIC_NAME_LENGTH_MAX])
def test_names_are_kafkas(name: str):
    assert spec(name).name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a b", "a/b", "ä", "a\n", "x" * (TOPIC_NAME_LENGTH_MAX + 1), None, 5]
)
def test_other_names_are_refused(name: str):
    with refused(ConfigurationError, repr(name)):
        spec(name)


def test_a_plain_topic_has_the_columns_of_kafka_and_its_key():
    made = spec(schema=None, key="whatever")
    assert (made.schema, made.key, made.typed) == (PLAIN_SCHEMA, "key", False)
    assert PLAIN_SCHEMA.names == ["key", "value", "headers", "timestamp"]


def test_a_typed_topic_may_have_no_key():
    assert spec().key is None
    assert spec().typed


@pytest.mark.parametrize(
    "kind", [str, bytes, int, pa.int8(), pa.uint64(), pa.large_string(), pa.large_binary()], ids=str
)
def test_a_key_is_text_bytes_or_an_integer(kind: Any):
    assert spec(schema={"k": kind}, key="k").key == "k"


@pytest.mark.parametrize("kind", [float, bool, list[str], pa.timestamp("us")], ids=str)
def test_other_keys_are_refused(kind: Any):
    with refused(SchemaError, "clicks", "'k'"):
        spec(schema={"k": kind}, key="k")


def test_a_key_that_is_no_column_is_refused():
    with refused(SchemaError, "'usr'", "user: string"):
        spec(key="usr")


@pytest.mark.parametrize("partitions", [0, -1, PARTITIONS_MAX + 1])
def test_partitions_have_a_limit(partitions: int):
    assert spec(partitions=PARTITIONS_MAX).partitions == PARTITIONS_MAX
    with refused(ConfigurationError, str(partitions)):
        spec(partitions=partitions)


def test_compaction_needs_a_key():
    assert spec(compaction=True, key="user").compaction
    with refused(ConfigurationError, "key="):
        spec(compaction=True)


def test_retention_is_a_duration_and_a_positive_size():
    made = spec(retention="7d", retention_bytes=1)
    assert (made.retention_us, made.retention_bytes) == (604_800_000_000, 1)
    for size in (0, -5):
        with refused(ConfigurationError, "retention_bytes"):
            spec(retention_bytes=size)
    for bad in ("soon", timedelta(days=-1), 5):
        with refused(ConfigurationError, somewhere=False):
            spec(retention=bad)


def test_the_same_declaration_changes_nothing():
    assert reconcile(stored(spec()), spec()) is None


def test_retention_and_compaction_may_change_freely():
    changed = spec(key="user", retention="1d", retention_bytes=5, compaction=True)
    assert reconcile(stored(spec(key="user")), changed) is None


def test_new_columns_that_may_be_null_are_added():
    wider = {**SCHEMA, "note": str | None}
    found = reconcile(stored(spec()), spec(schema=wider))
    assert found is not None
    assert found.names == ["user", "n", "price", "note"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"partitions": 2}, "partitions"),
        ({"key": "user"}, "key"),
        ({"schema": None}, "typed"),
        ({"schema": {"user": str, "n": str, "price": float | None}}, "'n'"),
        ({"schema": {"user": str, "n": int, "price": float}}, "'price'"),
        ({"schema": {"user": str, "price": float | None}}, "'n'"),
        ({"schema": {**SCHEMA, "note": str}}, "'note'"),
    ],
)
def test_another_definition_is_refused_and_named(options: dict[str, Any], word: str):
    # A plain topic has a key, so the typed one needs the same to differ in nothing else.
    typed = {"schema": {"key": bytes}, "key": "key"} if "schema" in options else {}
    existing = stored(spec(**typed) if options.get("schema", ...) is None else spec())
    with refused(TopicExists, "clicks", word):
        reconcile(existing, spec(**options))
