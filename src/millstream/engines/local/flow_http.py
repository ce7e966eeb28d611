"""Requests over HTTP, through httpx: the extra ``millstream[http]``, imported when a flow needs it.

A request has one timeout for all of it: from the name of the host to the end of the answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from millstream.primitives.errors import ConfigurationError

ANSWER_BYTES_MAX: Final = 16 * 1024
"""How much of an answer is read; what is longer closes the connection."""


@dataclass(frozen=True)
class Request:
    """What is sent."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What came back; without an answer ``status`` is 0, and ``text`` says why."""

    status: int
    text: str
    retry_after: str | None = None


class HttpClient:
    """Connections that stay open between requests. Belongs to one event loop."""

    def __init__(self, *, connections: int, timeout_us: int) -> None:
        """Raise ConfigurationError when httpx is not installed. Nothing is connected yet."""
        try:
            import httpx
        except ImportError as error:
            raise ConfigurationError(
                "the client of HTTP is not installed",
                where="webhook(…)",
                expected="httpx",
                next_step="pip install millstream[http]",
            ) from error
        self._timeout_s = timeout_us / 1e6
        self._errors = (httpx.HTTPError, httpx.InvalidURL, OSError)
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = httpx.AsyncClient(timeout=None, limits=limits, follow_redirects=False)

    async def send(self, request: Request) -> Answer:
        """Send a request and return what came of it; that nothing came is an answer too."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._sent(request)
        except TimeoutError:
            return Answer(0, f"no answer within {self._timeout_s:g} s")
        except self._errors as error:
            return Answer(0, f"{type(error).__name__}: {error}".rstrip(": "))

    async def _sent(self, request: Request) -> Answer:
        # What is read of an answer is bounded, which it would not be if it were packed.
        headers = {"accept-encoding": "identity", **request.headers}
        stream = self._client.stream(
            request.method, request.url, headers=headers, content=request.body
        )
        async with stream as response:
            text = b""
            async for part in response.aiter_raw():
                text += part
                if len(text) > ANSWER_BYTES_MAX:
                    break
            said = text[:ANSWER_BYTES_MAX].decode("utf-8", "replace")
            return Answer(response.status_code, said, response.headers.get("retry-after"))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
