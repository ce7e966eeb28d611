"""A mail server on this machine, on a free port, for as long as the demo needs it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from email import message_from_bytes
from email.message import Message
from types import TracebackType
from typing import Self

from aiosmtpd.smtp import SMTP, Envelope, Session

from millstream.cli.flights.office import TOKEN_HEADER

OnMail = Callable[[int, Message], None]
"""Told the number of the mail, from 1, and the mail, before the sender is told that it arrived."""


class PostOffice:
    """Receives mails whose token it knows, and counts them. Runs in a thread of its own."""

    def __init__(self, tokens: set[str], on_mail: OnMail) -> None:
        """Know the tokens; nothing is open before ``with``."""
        self.port = 0
        self.arrived: Counter[str] = Counter()
        """How often the mail of each token arrived."""
        self._tokens = tokens
        self._on_mail = on_mail
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="post-office")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Take a mail: aiosmtpd's name for it. The answer is what makes the sender believe that it arrived."""
        del server, session
        content = envelope.original_content or b""
        mail = message_from_bytes(content)
        token = str(mail[TOKEN_HEADER])
        if token not in self._tokens:
            return "550 unknown token"
        self.arrived[token] += 1
        self._on_mail(self.arrived.total(), mail)
        return "250 OK"

    def __enter__(self) -> Self:
        """Listen on a free port of this machine alone."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(
            lambda: SMTP(self, hostname="localhost", loop=self._loop), "127.0.0.1", 0
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the port, end what is still connected, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
