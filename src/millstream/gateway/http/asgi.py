"""A webhook as a source of topics: an ASGI app that takes ``POST /topics/NAME``.

    reserve    a place among the requests that are read, and room for the body       503, 413, 408
    believe    the signature, over the bytes as they came                            401
    parse      JSON that fits the topic's columns                                    404, 400, 415, 422
    commit     events and the key of the message, in one transaction                 503
    answer     200, only now

Killed before the commit: nothing is stored, and the sender, which has no answer, sends again. Killed after it: the key
is known when it does, and nothing is appended twice. Reading runs in the event loop, parsing and storing in a few
threads, whose commits share syncs.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

from millstream.gateway.http.answer import Answer, Refusal, refusal_of
from millstream.gateway.http.decoding import JSON, JSON_LINES, RowDecoder
from millstream.log.definition import TopicInfo
from millstream.log.inbox import Fate, Inbox, MessageKey
from millstream.primitives.clock import Clock
from millstream.primitives.durability import Durability
from millstream.primitives.errors import MillstreamError
from millstream.primitives.schema import us_datetime
from millstream.primitives.signing import misfit

REQUESTS_MAX: Final = 256
"""How many requests are read or stored at a time; more are asked to come again."""
HELD_BYTES_MAX: Final = 64 * 1024 * 1024
"""How many bytes of all their bodies are in memory; a body may be larger if it is alone."""
BODY_TIMEOUT_S: Final = 30.0
"""How long a sender may take to send a body."""
KEY_LENGTH_MAX: Final = 255
STORING_THREADS: Final = 8
_PREFIX: Final = "/topics/"
_KEYS: Final = {
    # Under a signature that holds the key, only that one: any other header may be changed on the way.
    "standard": ("webhook-id",),
    "github": ("x-github-delivery", "idempotency-key"),
    "": ("idempotency-key", "webhook-id", "x-github-delivery"),
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Declared(Protocol):
    """A handle of a topic, which makes it when it is used first."""

    @property
    def info(self) -> TopicInfo:
        """The topic as it is stored."""


@dataclass(frozen=True)
class StoredTopic:
    """A topic that the store has, and nobody here has declared."""

    name: str
    inbox: Callable[[], Inbox]

    @property
    def info(self) -> TopicInfo:
        """The topic as it is stored. Raises UnknownTopic."""
        return self.inbox().topic(self.name)


@dataclass(frozen=True)
class WebhookPolicy:
    """What is taken, and how."""

    keys: tuple[bytes, ...] = ()
    """Of the secrets; without one whoever reaches the app is believed."""
    signature: str = "standard"
    body_bytes_max: int = 8 * 1024 * 1024
    durability: Durability = Durability.DISK
    remember_us: int = 7 * 86_400_000_000


class Webhook:
    """An ASGI 3 application. Belongs to one event loop."""

    def __init__(
        self,
        inbox: Callable[[], Inbox],
        declared: Callable[[], Mapping[str, Declared]],
        policy: WebhookPolicy,
        *,
        clock: Clock,
    ) -> None:
        """Nothing is opened before the first request, or the start of the server.

        ``declared`` are the topics by the names that are posted to; others are unknown here, whatever the store holds.
        """
        self._inbox = inbox
        self._declared = declared
        self._policy = policy
        self._clock = clock
        self._decoders: dict[int, RowDecoder] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._requests = 0
        self._held_bytes = 0

    def prepare(self) -> list[str]:
        """Make the declared topics that are missing, and return the names of all of them.

        Raises TopicExists for one that exists with another definition, UnknownTopic, and what opening the store raises.
        """
        self._inbox()
        return sorted(handle.info.name for handle in self._declared().values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or follow the life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._respond(scope, receive, send)

    def close(self) -> None:
        """Wait for what is being stored. The app that made it stays open."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await asyncio.to_thread(self.prepare)
                except MillstreamError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await asyncio.to_thread(self.close)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
        except Refusal as refusal:
            answer = refusal.answer
        except asyncio.IncompleteReadError:
            return  # the sender is gone, and nothing was stored
        body = answer.body
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **answer.headers,
        }
        if not scope.get("http_version", "1.1").startswith("1"):
            headers.pop("connection", None)  # HTTP/2 has no such header
        told = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": told})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        name = _topic_name(scope)
        headers = {
            key.decode("latin-1").lower(): v.decode("latin-1") for key, v in scope["headers"]
        }
        if self._requests >= REQUESTS_MAX:
            raise _busy()
        self._requests += 1
        held = 0
        try:
            self._refuse_length(headers)
            body = bytearray()
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for part in _parts(receive):
                    held += len(part)
                    self._held_bytes += len(part)
                    body += part
                    self._refuse_more(held)
            message = bytes(body)
            self._believe(headers, message)
            work = functools.partial(self._stored, name, headers, message)
            return await asyncio.get_running_loop().run_in_executor(self._threads(), work)
        except TimeoutError:
            raise Refusal(
                408, f"the body took longer than {BODY_TIMEOUT_S:g} s", headers=_LAST
            ) from None
        finally:
            self._requests -= 1
            self._held_bytes -= held

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(STORING_THREADS, thread_name_prefix="millstream-hook")
        return self._pool

    def _refuse_length(self, headers: Mapping[str, str]) -> None:
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit():
            self._refuse_larger(int(length[:18]))
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(
                415,
                "the body is compressed",
                where="content-encoding",
                expected="a body as it is",
                headers={**_LAST, "accept-encoding": "identity"},
            )

    def _refuse_larger(self, length: int) -> None:
        if length > self._policy.body_bytes_max:
            raise Refusal(
                413,
                "the body is too large",
                expected=f"at most {self._policy.body_bytes_max} bytes",
                next_step="send fewer events in one request",
                headers=_LAST,
            )

    def _refuse_more(self, held: int) -> None:
        self._refuse_larger(held)
        if self._held_bytes > HELD_BYTES_MAX and held < self._held_bytes:
            raise _busy()

    def _believe(self, headers: Mapping[str, str], body: bytes) -> None:
        policy = self._policy
        if not policy.keys:
            return
        now_s = self._clock.now_us() // 1_000_000
        why = misfit(policy.signature, policy.keys, headers, body, now_s=now_s)
        if why is not None:
            raise Refusal(
                401,
                why,
                expected=f"a request that is signed as {policy.signature!r}, with the secret of this webhook",
                headers={"www-authenticate": "Signature"},
            )

    def _stored(self, name: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Parse and store; runs in a thread. Raises Refusal."""
        try:
            topic = self._topic(name)
            events = self._events(topic, headers, body)
            key = self._key(headers, body)
            if not events:
                return _taken(topic.name, 0, repeated=False)
            received = self._inbox().receive(
                topic, events, key=key, durability=self._policy.durability
            )
        except MillstreamError as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            raise refusal from error
        if received.fate is Fate.CONFLICT:
            raise Refusal(
                422,
                "the key was used for another message",
                where=f"topic {topic.name!r}",
                expected="one key for each message, the same when it is sent again",
            )
        return _taken(topic.name, received.events, repeated=received.fate is Fate.REPEATED)

    def _topic(self, name: str) -> TopicInfo:
        declared = self._declared().get(name)
        if declared is None:
            raise Refusal(
                404,
                f"there is no topic {name!r} here",
                next_step="post to a topic that was declared",
            )
        return declared.info

    def _events(
        self, topic: TopicInfo, headers: Mapping[str, str], body: bytes
    ) -> list[dict[str, Any]]:
        content = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not topic.typed:
            # A plain topic takes whatever comes, as it came.
            said = [{"name": "content-type", "value": content.encode()}] if content else []
            now = us_datetime(self._clock.now_us())
            return [{"key": None, "value": body, "headers": said, "timestamp": now}]
        lines = content in JSON_LINES
        if not (lines or content in JSON or content.endswith("+json")):
            raise Refusal(
                415,
                f"{content!r} is not understood",
                where="content-type",
                expected="application/json, or application/x-ndjson for JSON lines",
            )
        decoder = self._decoders.get(topic.schema_id)
        if decoder is None:
            decoder = self._decoders[topic.schema_id] = RowDecoder(topic)
        return decoder.events(body, lines=lines)

    def _key(self, headers: Mapping[str, str], body: bytes) -> MessageKey | None:
        policy = self._policy
        names = _KEYS[policy.signature if policy.keys else ""]
        key = next((headers[name] for name in names if headers.get(name)), None)
        if key is None:
            return None
        if len(key) > KEY_LENGTH_MAX:
            raise Refusal(
                400,
                f"the key has {len(key)} characters",
                expected=f"at most {KEY_LENGTH_MAX}",
            )
        return MessageKey(key, hashlib.sha256(body).digest(), policy.remember_us)


_LAST: Final = {"connection": "close"}
"""What is left of the body is not read."""


def _topic_name(scope: Scope) -> str:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    name = path.removeprefix(_PREFIX) if path.startswith(_PREFIX) else ""
    if not name or "/" in name:
        raise Refusal(404, "there is nothing here", expected="POST /topics/NAME", headers=_LAST)
    if scope["method"] != "POST":
        raise Refusal(
            405,
            f"{scope['method']} is not understood",
            expected="POST",
            headers={**_LAST, "allow": "POST"},
        )
    return str(name)


async def _parts(receive: Receive) -> Any:  # noqa: ANN401 - an async iterator of bytes
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise asyncio.IncompleteReadError(b"", None)
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _busy() -> Refusal:
    return Refusal(
        503,
        "too many requests at a time",
        next_step="send it again, with the same key",
        headers={**_LAST, "retry-after": "1"},
    )


def _taken(topic: str, events: int, *, repeated: bool) -> Answer:
    return Answer(200, {"topic": topic, "events": events, "repeated": repeated})
