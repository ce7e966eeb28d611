"""A receiver of webhooks on the loopback, which keeps all that arrives and answers as it is told; and a sender."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

import millstream as ms


@dataclass
class Arrived:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        held = json.loads(self.body)
        return held if isinstance(held, list) else [held]


@dataclass
class Told:
    """An answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""


class Receiver:
    """A context manager. ``answer`` is called with each request and its number, from 1 on, in the server's threads."""

    def __init__(self, answer: Callable[[Arrived, int], Told] = lambda *_: Told()) -> None:
        self.answer = answer
        self.arrived: list[Arrived] = []
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._handle(self)

            do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        came = Arrived(handler.command, handler.path, headers, body)
        with self._lock:
            self.arrived.append(came)
            number = len(self.arrived)
        told = self.answer(came, number)
        text = told.text.encode()
        handler.send_response(told.status)
        for name, value in {**told.headers, "content-length": str(len(text))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)

    def taken(self) -> list[dict[str, Any]]:
        """Return the rows that arrived as a receiver takes them that drops a key which it has seen, in order."""
        seen: dict[str, list[dict[str, Any]]] = {}
        for came in self.arrived:
            known = seen.setdefault(came.key, came.rows)
            assert known == came.rows, "one key, two contents"
        return [row for rows in seen.values() for row in rows]

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


BODY = b'{"k": "a", "n": 1}'
"""What is posted if nothing else is said: an event of the topic ``orders``."""


def post(
    hook: Any, path: str = "/topics/orders", body: Any = BODY, **headers: str
) -> httpx.Response:
    return asyncio.run(posted(hook, path, body, **headers))


async def posted(hook: Any, path: str, body: Any, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    transport = httpx.ASGITransport(hook)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        return await client.post(path, content=body, headers=sent)


def stored(app: ms.App, topic: str = "orders") -> list[dict[str, Any]]:
    if topic not in app.topics():
        return []
    rows: list[dict[str, Any]] = app.read(topic).collect().to_pylist()
    return rows


def numbers(app: ms.App) -> list[int]:
    return sorted(row["n"] for row in stored(app))
