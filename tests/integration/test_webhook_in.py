"""Events posted to topics: what is taken, once whatever is sent again, and what is refused with which words."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.gateway.http.asgi import Webhook
from millstream.primitives.errors import (
    ConfigurationError,
)
from millstream.testing.clock import VirtualClock
from tests.webhook_kit import BODY, numbers, post, posted, stored

START = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1_767_225_600_000_000)


@pytest.fixture
def app(store_path: Path, clock: VirtualClock) -> Iterator[ms.App]:
    with ms.App("shop", store=store_path, durability="process", clock=clock) as app:
        app.topic(
            "orders", schema={"k": str, "n": int, "at": ms.Timestamp | None}, key="k", partitions=2
        )
        app.topic("raw")
        yield app


# ---- what is taken ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content", "wanted"),
    [
        (BODY, "application/json", [1]),
        (BODY, "application/cloudevents+json; charset=utf-8", [1]),
        (b' [{"k": "a", "n": 1}, {"n": 2, "k": "b", "at": null}]', "application/json", [1, 2]),
        (BODY + b"\n" + BODY + b"\n\n" + BODY, "application/x-ndjson", [1, 1, 1]),
        (b"[]", "application/json", []),
        (b"\n", "application/jsonl", []),
    ],
)
def test_json_is_appended(app: ms.App, body: bytes, content: str, wanted: list[int]) -> None:
    answer = post(app.webhook(), body=body, content_type=content)
    assert answer.status_code == 200
    assert answer.json() == {"topic": "orders", "events": len(wanted), "repeated": False}
    assert numbers(app) == wanted


def test_a_plain_topic_takes_what_comes_as_it_came(app: ms.App) -> None:
    answer = post(app.webhook(), "/topics/raw", b"\xff<xml>", content_type="text/xml")
    assert answer.json()["events"] == 1
    [event] = stored(app, "raw")
    assert (event["key"], event["value"]) == (None, b"\xff<xml>")
    assert event["headers"] == [{"name": "content-type", "value": b"text/xml"}]
    assert event["timestamp"] == START


KINDS: dict[str, tuple[pa.DataType, Any]] = {
    "i8": (pa.int8(), -128),
    "u64": (pa.uint64(), 2**63 - 1),
    "i64": (pa.int64(), -(2**63)),
    "f": (pa.float64(), 0.5),
    "t": (pa.string(), "ü\n\u0000"),
    "b": (pa.bool_(), True),
    "y": (pa.binary(), b"\x00x"),
    "d": (pa.date32(), date(1969, 7, 20)),
    "c": (pa.time64("us"), time(1, 2, 3)),
    "w": (pa.timestamp("us", "UTC"), datetime(1969, 7, 20, 20, 17, 40, 5, tzinfo=UTC)),
    "z": (pa.timestamp("us"), datetime(2026, 1, 1)),  # noqa: DTZ001 - a column without a zone
    "p": (pa.duration("us"), timedelta(seconds=90)),
    "x": (pa.decimal128(10, 2), Decimal("1.50")),
    "l": (pa.list_(pa.timestamp("us", "UTC")), [START, None]),
    "s": (pa.struct([pa.field("in.ner", pa.list_(pa.struct([("a", pa.date32())])))]),
          {"in.ner": [{"a": date(2026, 1, 1)}, None]}),
    "odd name!": (pa.dictionary(pa.int32(), pa.string()), "x"),
}  # fmt: skip


def test_every_type_is_taken_as_append_takes_it(app: ms.App) -> None:
    schema = pa.schema([pa.field(name, kind) for name, (kind, _) in KINDS.items()])
    every = app.topic("every", schema=schema)
    row = {name: value for name, (_, value) in KINDS.items()}
    every.append([row, {}])
    said = {
        **row, "y": "AHg=", "d": "1969-07-20", "c": "01:02:03", "z": "2026-01-01T00:00:00", "p": "PT90S", "x": "1.50",
        "w": "1969-07-20T22:17:40.000005+02:00", "l": ["2026-01-01T00:00:00Z", None],
        "s": {"in.ner": [{"a": "2026-01-01"}, None]},
    }  # fmt: skip
    answer = post(app.webhook(), "/topics/every", json.dumps([said, {}]).encode())
    assert answer.status_code == 200, answer.text
    first, empty, *again = every.to_table().to_pylist()
    assert again == [first, empty]


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "t": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            "i": st.integers(-(2**63), 2**63 - 1),
            "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "b": st.booleans(),
            "y": st.none() | st.binary(),
            "w": st.datetimes(timezones=st.just(UTC)),
            "l": st.lists(st.none() | st.integers(-9, 9)),
        }
    ),
    max_size=5,
)


@settings(max_examples=20)
@given(rows=ROWS, lines=st.booleans())
def test_what_json_says_is_what_is_stored(rows: list[dict[str, Any]], lines: bool) -> None:
    def spoken(value: object) -> object:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        return value.isoformat() if isinstance(value, datetime) else value

    said = [{name: spoken(value) for name, value in row.items()} for row in rows]
    text = "\n".join(map(json.dumps, said)) if lines else json.dumps(said)
    schema = {
        "t": str | None, "i": int, "f": float | None, "b": bool, "y": bytes | None, "w": ms.Timestamp, "l": list[int],
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        ms.App("x", store=f"{folder}/s", durability="process") as app,
    ):
        topic = app.topic("t", schema=schema)
        content = "application/jsonl" if lines else "application/json"
        answer = post(app.webhook(topic), "/topics/t", text.encode(), content_type=content)
        assert answer.status_code == 200, answer.text
        assert topic.to_table().to_pylist() == rows


# ---- once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Idempotency-Key", "Webhook-Id", "X-GitHub-Delivery"])
def test_a_message_that_comes_again_is_not_appended_again(app: ms.App, header: str) -> None:
    hook = app.webhook()
    first, again = (post(hook, **{header: "one"}) for _ in range(2))
    assert (first.json()["repeated"], again.json()["repeated"]) == (False, True)
    assert again.json()["events"] == 1
    assert post(hook, **{header: "two"}).json()["repeated"] is False
    assert post(hook, "/topics/raw", **{header: "one"}).json()["repeated"] is False
    assert numbers(app) == [1, 1]
    other = post(hook, body=b'{"k": "a", "n": 2}', **{header: "one"})
    assert other.status_code == 422
    assert "used for another message" in other.json()["error"]
    assert numbers(app) == [1, 1]


def test_what_was_refused_may_come_again_mended(app: ms.App) -> None:
    hook = app.webhook()
    assert post(hook, body=b"{}", idempotency_key="one").status_code == 422
    assert post(hook, idempotency_key="one").json()["repeated"] is False


def test_a_large_message_that_comes_again_is_not_appended_again(app: ms.App) -> None:
    hook = app.webhook(durability="disk")
    body = json.dumps([{"k": "x" * 1000, "n": number} for number in range(1000)]).encode()
    answers = [post(hook, body=body, idempotency_key="one").json() for _ in range(3)]
    assert [answer["repeated"] for answer in answers] == [False, True, True]
    assert numbers(app) == list(range(1000))


def test_the_same_message_at_the_same_time_is_appended_once(app: ms.App) -> None:
    hook = app.webhook()

    async def together() -> list[httpx.Response]:
        sent = (posted(hook, "/topics/orders", BODY, idempotency_key="one") for _ in range(20))
        return await asyncio.gather(*sent)

    answers = [answer.json()["repeated"] for answer in asyncio.run(together())]
    assert sorted(answers) == [False] + [True] * 19
    assert numbers(app) == [1]


def test_keys_are_forgotten_after_a_while(app: ms.App, clock: VirtualClock) -> None:
    hook = app.webhook(remember="1h")
    for number in range(5):
        post(hook, idempotency_key=f"{number}")
    clock.advance("59m")
    assert post(hook, idempotency_key="0").json()["repeated"] is True
    clock.advance("1m")
    post(hook, idempotency_key="new")
    assert post(hook, idempotency_key="0").json()["repeated"] is False
    kept = app.log_engine.store.look("log/received_get", (app.log_engine.topic("orders").id, "1"))
    assert kept == []


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"", {}, 400, "not JSON"),
        (b'{"k": "a", "n": 1', {}, 400, "not JSON"),
        (b'{"k": "\xff", "n": 1}', {}, 400, "not JSON"),
        (BODY + BODY, {}, 400, "not JSON"),
        (b'{"k": "a"}\n{', {"content_type": "application/jsonl"}, 422, "missing required field `n`"),
        (b"7", {}, 422, "Expected `object`, got `int`"),
        (b"null", {}, 422, "Expected `object`"),
        (b'{"k": "a"}', {}, 422, "missing required field `n`"),
        (b'{"k": "a", "n": null}', {}, 422, r"$.n"),
        (b'[{"k": "a", "n": 1}, {"k": "a", "n": "2"}]', {}, 422, r"$[1].n"),
        (b'{"k": "a", "n": 1.5}', {}, 422, r"$.n"),
        (b'{"k": "a", "n": 9223372036854775808}', {}, 422, r"$.n"),
        (b'{"k": "a", "n": 1, "x": 1}', {}, 422, "unknown field `x`"),
        (b'{"k": "a", "n": 1, "at": "2026-01-01T00:00:00"}', {}, 422, "timezone"),
        (b'{"k": "a", "n": 1, "at": "soon"}', {}, 422, r"$.at"),
        (b"n=1", {"content_type": "application/x-www-form-urlencoded"}, 415, "not understood"),
        (BODY, {"content_encoding": "gzip"}, 415, "compressed"),
        (BODY, {"idempotency_key": "k" * 256}, 400, "256 characters"),
        (b"[" * 100_000, {}, 422, "Expected `object`, got `array`"),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be_are_refused(
    app: ms.App, body: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    answer = post(app.webhook(), body=body, **headers)
    assert (answer.status_code, says in answer.text) == (status, True), answer.text
    assert stored(app) == []


def test_places_that_are_not_there(app: ms.App) -> None:
    hook = app.webhook()
    with ms.App("other", store=app.store_path, durability="process") as other:
        other.topic("hidden").append({"key": b"", "value": b""})
    assert "no topic 'hidden'" in post(hook, "/topics/hidden").text
    assert post(app.webhook("hidden"), "/topics/hidden").status_code == 200
    for path, said in (("/topics/nothing", "no topic 'nothing'"), ("/", "nothing here"),
                       ("/topics/", "nothing here"), ("/topics/a/b", "nothing here")):  # fmt: skip
        answer = post(hook, path)
        assert (answer.status_code, said in answer.text) == (404, True), answer.text
    only = app.webhook("orders")
    assert post(only, "/topics/raw").status_code == 404
    assert post(only).status_code == 200

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(hook)) as client:
            return await client.get("http://shop/topics/orders")

    answer = asyncio.run(get())
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 1000


def test_a_body_that_is_too_large_is_not_read_to_its_end(app: ms.App) -> None:
    hook = app.webhook(limit="10KB")
    assert post(hook, body=b" " * 10_001).status_code == 413
    assert post(hook, body=endless()).status_code == 413
    assert post(hook, body=BODY + b" " * (10_000 - len(BODY))).status_code == 200


def test_words_that_say_nothing_are_refused(app: ms.App) -> None:
    for wrong in ({"secret": "!"}, {"secret": SECRET, "signature": "md5"}, {"limit": "much"}, {"remember": "long"},
                  {"durability": "memory"}):  # fmt: skip
        with pytest.raises(ConfigurationError):
            app.webhook(**wrong)  # type: ignore[arg-type]


# ---- beside other apps --------------------------------------------------------------------------


def test_it_is_mounted_in_another_app(app: ms.App) -> None:
    outer = FastAPI()
    outer.mount("/hooks", app.webhook())
    assert post(outer, "/hooks/topics/orders").status_code == 200
    assert post(outer, "/topics/orders").status_code == 404
    assert numbers(app) == [1]


def lived(hook: Webhook) -> list[str]:
    told: list[str] = []

    async def life() -> None:
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            told.append(message["type"])

        await hook({"type": "lifespan"}, receive, send)

    asyncio.run(life())
    return told


def test_it_starts_and_ends_with_its_server(app: ms.App) -> None:
    assert lived(app.webhook()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert app.topics() == ["orders", "raw"]  # made, though nothing was appended yet
    assert lived(app.webhook("nothing")) == ["lifespan.startup.failed"]
    app.topic("orders", schema={"other": str})
    assert lived(app.webhook()) == ["lifespan.startup.failed"]
