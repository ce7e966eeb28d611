"""Webhooks that cannot be: refused when the plan is built; and what is never shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millstream.flows.webhook import webhook
from millstream.primitives.errors import ConfigurationError, PlanError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("events", {"k": str, "n": int, "at": Timestamp}, key="k")
        yield world


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda flow: webhook("ftp://host/x"), "URL of a webhook"),
        (lambda flow: webhook("https://"), "URL of a webhook"),
        (lambda flow: webhook("http://host/a b"), "URL of a webhook"),
        (lambda flow: webhook("http://host:0x/"), "URL of a webhook"),
        (lambda flow: webhook("http://h/", headers={"a b": "c"}), "header 'a b'"),
        (lambda flow: webhook("http://h/", headers={"a": "c\r\nd: e"}), "header 'a'"),
        (lambda flow: webhook("http://h/", headers={"Idempotency-Key": "1"}), "set by the request"),
        (lambda flow: webhook("http://h/", batch=0), "batch=0"),
        (lambda flow: webhook("http://h/", batch=2, key="k"), "batch= or key="),
        (lambda flow: webhook("http://h/", concurrency=257), "concurrency=257"),
        (lambda flow: webhook("http://h/", retries=-1), "retries=-1"),
        (lambda flow: webhook("http://h/", retries=True), "retries=True"),
        (lambda flow: webhook("http://h/", method="GET"), "method='GET'"),
        (lambda flow: webhook("http://h/", on_error="ignore"), "on_error='ignore'"),
        (lambda flow: webhook("http://h/", signature="md5"), "signature='md5'"),
        (lambda flow: webhook("http://h/", timeout="0s"), "timeout='0s'"),
        (lambda flow: flow.write(webhook("http://h/", key="at")), "key 'at'"),
        (lambda flow: flow.write(webhook("http://h/", key="x")), "key 'x'"),
        (lambda flow: flow.write(webhook("http://h/"), key="k"), r"in webhook\(…, key"),
        (lambda flow: flow.write(webhook("http://h/"), file_format="csv"), "partitions nor a format"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(world: LocalWorld, made: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        made(world.read("events"))


@pytest.mark.parametrize(
    "made",
    [
        lambda: webhook("http://h/", timeout="soon"),
        lambda: webhook("http://h/", backoff="linear"),
        lambda: webhook("http://h/", secret="not base64!"),
        lambda: webhook("http://h/", secret="", signature="github"),
    ],
)
def test_words_that_say_nothing_are_refused(made: Any) -> None:
    with pytest.raises(ConfigurationError):
        made()


def test_a_column_that_json_cannot_say_is_refused(world: LocalWorld) -> None:
    kind = pa.map_(pa.string(), pa.int64())
    flow = world.table(pa.table({"m": pa.array([[("a", 1)]], kind)}))
    with pytest.raises(PlanError, match="cannot hold column 'm'"):
        flow.write(webhook("http://h/"))


def test_secrets_are_not_shown(world: LocalWorld) -> None:
    sink = webhook(
        "https://ann:hidden@hooks.example/hidden?token=hidden",
        headers={"Authorization": "hidden"},
        secret=SECRET,
    )
    flow = world.read("events").write(sink)
    shown = flow.explain() + repr(sink) + flow.name
    assert "hidden" not in shown
    assert "MfKQ9r8GKYqrTwj" not in shown
    assert "webhook https://hooks.example" in shown
    assert world.read("events").write(webhook("http://[::1]/")).name.startswith("..1-")
    assert flow.name != world.read("events").write(webhook("https://hooks.example/b")).name
