"""Who is believed when he posts, and how many at a time."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import millstream as ms
from millstream.engines.local.inbox import LocalInbox
from millstream.gateway.http import asgi
from millstream.primitives.errors import MillstreamError, StoreBusy, StoreFull, StoreStopped
from millstream.primitives.signing import secret_key, signed
from millstream.testing.clock import VirtualClock
from tests.webhook_kit import BODY, numbers, post, posted, stored

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another secret").decode()


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


# ---- who is believed ----------------------------------------------------------------------------


def signed_by(
    secret: str, clock: VirtualClock, key: str, scheme: str = "standard"
) -> dict[str, str]:
    at_s = clock.now_us() // 1_000_000
    found = secret_key(secret, scheme, where="here")
    return signed(scheme, found, message_id=key, at_s=at_s, body=BODY)


def test_only_what_a_secret_has_signed_is_believed(app: ms.App, clock: VirtualClock) -> None:
    hook = app.webhook(secret=[SECRET, OTHER])
    for number, secret in enumerate((SECRET, OTHER)):
        assert post(hook, **signed_by(secret, clock, f"{number}")).status_code == 200
    stranger = "whsec_" + base64.b64encode(b"a stranger").decode()
    good = signed_by(SECRET, clock, "x")
    for headers in ({}, signed_by(stranger, clock, "x"), {**good, "webhook-id": "y"}):
        answer = post(hook, **headers)
        assert answer.status_code == 401
        assert "www-authenticate" in answer.headers
    assert post(hook, body=BODY + b" ", **good).status_code == 401
    assert (
        post(hook, "/topics/nothing", BODY).status_code == 401
    )  # which topics there are is not told
    clock.advance("6m")
    assert "clock" in post(hook, **good).text
    assert numbers(app) == [1, 1]


def test_what_was_signed_is_the_key_not_what_was_added(app: ms.App, clock: VirtualClock) -> None:
    hook = app.webhook(secret=SECRET)
    for number in range(2):
        answer = post(hook, idempotency_key=f"{number}", **signed_by(SECRET, clock, "one"))
        assert answer.json()["repeated"] is bool(number)
    assert numbers(app) == [1]


def test_github_signs_too(app: ms.App, clock: VirtualClock) -> None:
    hook = app.webhook(secret="it's a secret", signature="github")
    headers = signed_by("it's a secret", clock, "", "github")
    for number in range(2):
        answer = post(hook, x_github_delivery="one", **headers)
        assert answer.json()["repeated"] is bool(number)
    assert post(hook, x_github_delivery="two").status_code == 401


# ---- too much at a time -------------------------------------------------------------------------


def test_too_many_requests_are_asked_to_come_again(
    app: ms.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = app.webhook()
    monkeypatch.setattr(asgi, "REQUESTS_MAX", 3)
    started, free = asyncio.Event(), asyncio.Event()
    running = 0

    async def slow() -> AsyncIterator[bytes]:
        nonlocal running
        running += 1
        if running == 3:
            started.set()
        await free.wait()
        yield BODY

    async def crowd() -> tuple[httpx.Response, list[httpx.Response]]:
        first = [asyncio.ensure_future(posted(hook, "/topics/orders", slow())) for _ in range(3)]
        await started.wait()
        refused = await posted(hook, "/topics/orders", BODY)
        free.set()
        return refused, list(await asyncio.gather(*first))

    refused, taken = asyncio.run(crowd())
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert [answer.status_code for answer in taken] == [200] * 3
    assert post(hook).status_code == 200


def test_too_many_bytes_are_asked_to_come_again(
    app: ms.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = app.webhook()
    monkeypatch.setattr(asgi, "HELD_BYTES_MAX", 30)
    held, free = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield BODY
        held.set()
        await free.wait()
        yield b" " * 20

    async def crowd() -> list[int]:
        first = asyncio.ensure_future(posted(hook, "/topics/orders", slow()))
        await held.wait()
        second = await posted(hook, "/topics/orders", BODY)
        free.set()
        return [(await first).status_code, second.status_code]

    # One that is alone may hold more than that.
    assert asyncio.run(crowd()) == [200, 503]
    assert hook._held_bytes == hook._requests == 0


def test_a_sender_that_is_too_slow_is_let_go(app: ms.App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "BODY_TIMEOUT_S", 0.05)
    hook = app.webhook()

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    assert post(hook, body=never()).status_code == 408
    assert hook._requests == 0


def test_a_sender_that_goes_away_leaves_nothing(app: ms.App) -> None:
    hook = app.webhook()
    messages = iter(
        [{"type": "http.request", "body": BODY, "more_body": True}, {"type": "http.disconnect"}]
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/topics/orders", "headers": []}
    asyncio.run(hook(scope, receive, send))
    assert (sent, stored(app), hook._requests) == ([], [], 0)


@pytest.mark.parametrize(
    ("error", "wait"), [(StoreBusy("b"), "1"), (StoreFull("f"), "30"), (StoreStopped("s"), "1")]
)
def test_a_store_that_cannot_take_it_asks_to_come_again(
    app: ms.App, monkeypatch: pytest.MonkeyPatch, error: MillstreamError, wait: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(LocalInbox, "receive", refuse)
    answer = post(app.webhook())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, wait)
    assert str(app.store_path) not in answer.text
