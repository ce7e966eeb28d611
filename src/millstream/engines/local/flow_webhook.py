"""Webhooks as sinks of flows: each row at least once, in order, with a key that stays the same.

A stream sends behind its commit, and notes what has arrived:

    commit     the store: place, state, and the rows, as a delivery                      flow.committed
    send       up to ``concurrency`` requests, each until it is taken or refused         flow.webhook_sent
    mark       how many rows have arrived, and the letters of those that were refused    flow.webhook_marked
    forget     the next commit of the store drops the delivery

Killed before the commit: nothing was sent, and the rows are computed again. Killed after it: the rows are in the
catalog, and whoever takes the flow over goes on behind the last mark. What was sent after the mark comes again, under
the same ``Idempotency-Key``: store, flow, number of the delivery, and the rows' places in it. No transaction is open
while a request is.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec
import pyarrow as pa

from millstream.engines.local.append import Staged
from millstream.engines.local.flow_catalog import store_identity
from millstream.engines.local.flow_delivery import Delivery, Packed, packed, unpacked
from millstream.engines.local.flow_events import DEAD_SCHEMA, Failures, run_in_loop
from millstream.engines.local.flow_http import Answer, HttpClient, Request
from millstream.engines.local.flow_sinks import commit_staged, open_topic
from millstream.engines.local.log import LocalLog
from millstream.flows.contract import Stop
from millstream.flows.plan import Plan
from millstream.flows.source import TopicSink
from millstream.flows.webhook import (
    Meaning,
    WebhookSink,
    idempotency_key,
    plain_text,
    retry_after_us,
)
from millstream.log.definition import TopicInfo
from millstream.primitives.clock import Clock
from millstream.primitives.durability import Durability
from millstream.primitives.errors import Fenced, StepError
from millstream.primitives.identity import new_id
from millstream.primitives.signing import signed
from millstream.primitives.telemetry import reach
from millstream.store import Transaction

STOP_CHECK_S: Final = 0.1
"""How often a sender that waits for a retry looks whether it should stop."""

ANY_WEBHOOK: Final = "a webhook"
"""The target of a delivery: rows that are owed go to the webhook that the flow has now, so a URL can be mended."""

_SHOWN: Final = 300
"""Characters of a row and of an answer that an error shows."""


@dataclass(frozen=True)
class _Piece:
    """Rows that are one request, and their place in the delivery."""

    first: int
    rows: list[dict[str, Any]]
    key: str
    body: bytes


STOPPED: Final = Answer(0, "stopped")
"""Not an answer: the stream was told to stop while a retry was waited for."""


class WebhookSender:
    """Sends rows to a webhook. Belongs to one thread."""

    def __init__(self, sink: WebhookSink, *, prefix: tuple[str, str], clock: Clock) -> None:
        """``prefix`` are the store and the flow. Raises ConfigurationError when httpx is not installed."""
        self._sink = sink
        self._prefix = prefix
        self._clock = clock
        self._client = HttpClient(connections=sink.concurrency, timeout_us=sink.timeout_us)
        # Spreads retries of many senders; nothing that is computed depends on it.
        self._chance = random.Random()
        self.stop: Stop | None = None

    def pieces(self, rows: pa.Table, number: int | str, done: int = 0) -> Iterator[_Piece]:
        """Yield what is left to send, in order. Raises StepError for a row without a key."""
        size = self._sink.batch or 1
        for first in range(done, rows.num_rows, size):
            events = rows.slice(first, size).to_pylist()
            body = msgspec.json.encode(events if self._sink.batch else events[0])
            yield _Piece(first, events, self._key(events, number, first), body)

    def _key(self, events: Sequence[dict[str, Any]], number: int | str, first: int) -> str:
        if self._sink.key is None:
            return idempotency_key(*self._prefix, number, first, len(events))
        value = events[0][self._sink.key]
        if value is None:
            raise no_key(self._sink)
        return plain_text(str(value))

    def send(self, pieces: Sequence[_Piece]) -> list[Answer | None]:
        """Send pieces beside each other, and return what became of each, in their order; None: it was taken."""
        return run_in_loop(self._all_sent(pieces))

    async def _all_sent(self, pieces: Sequence[_Piece]) -> list[Answer | None]:
        return list(await asyncio.gather(*(self._sent(piece) for piece in pieces)))

    async def _sent(self, piece: _Piece) -> Answer | None:
        failures = 0
        while True:
            answer = await self._client.send(self._request(piece))
            meaning = Meaning.AGAIN if answer.status == 0 else self._sink.meaning(answer.status)
            if meaning is Meaning.TAKEN:
                return None
            failures += 1
            if meaning is Meaning.REFUSED or failures > self._sink.retries:
                return answer
            asked_us = retry_after_us(answer.retry_after, now_us=self._clock.now_us())
            wait_us = max(self._sink.backoff.delay_us(failures, self._chance), asked_us)
            if not await self._waited(wait_us / 1e6):
                return STOPPED

    async def _waited(self, seconds: float) -> bool:
        """Wait, and return whether to go on."""
        until_s = self._clock.monotonic_s() + seconds
        while True:
            if self.stop is not None and self.stop.is_set():
                return False
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0:
                return True
            await asyncio.sleep(min(left_s, STOP_CHECK_S))

    def _request(self, piece: _Piece) -> Request:
        sink = self._sink
        headers = {
            "user-agent": "millstream",
            **{name.lower(): value for name, value in sink.headers},
            "content-type": "application/json",
            "idempotency-key": piece.key,
        }
        if sink.secret_key is not None:
            # Anew for each attempt: a receiver refuses what was signed long ago.
            at_s = self._clock.now_us() // 1_000_000
            headers |= signed(
                sink.signature, sink.secret_key, message_id=piece.key, at_s=at_s, body=piece.body
            )
        return Request(sink.method, sink.url, headers, piece.body)

    def close(self) -> None:
        """Close the connections."""
        run_in_loop(self._client.close())


class _Outcome:
    """What became of a window of pieces: so many rows are done, and perhaps an error that ends the run."""

    def __init__(
        self, sink: WebhookSink, pieces: Sequence[_Piece], answers: Sequence[Answer | None],
        failures: Failures,
    ) -> None:  # fmt: skip
        self.done = pieces[0].first
        self.error: StepError | None = None
        self.stopped = False
        for piece, answer in zip(pieces, answers, strict=True):
            if answer is STOPPED:
                self.stopped = True
                return
            if answer is not None:
                self.error = _judged(sink, piece, answer, failures)
                if self.error is not None:
                    return
            self.done = piece.first + len(piece.rows)


def _judged(
    sink: WebhookSink, piece: _Piece, answer: Answer, failures: Failures
) -> StepError | None:
    """Return the error that ends the run; None if it goes on without these rows."""
    told = " ".join(answer.text.split())[:_SHOWN]
    if answer.status == 0 or sink.meaning(answer.status) is Meaning.AGAIN:
        what = f"answers {answer.status}" if answer.status else "does not answer"
        return StepError(
            f"the webhook {what}, {sink.retries + 1} times: {told}",
            where=sink.text(),
            expected="a receiver that takes the rows",
            next_step="run the flow again when it does; a stream has lost nothing, and goes on with these rows",
        )
    error = StepError(
        f"the webhook refuses rows with {answer.status}: {told}; "
        f"the first row: {msgspec.json.encode(piece.rows[0]).decode()[:_SHOWN]}",
        where=f"{sink.text()}, Idempotency-Key {piece.key}",
        expected="an answer from 200 to 299",
        next_step='mend the receiver, the URL or the headers and run the flow again, or say on_error="dead_letter" or '
        '"skip"; a stream goes on with these rows',
    )
    if sink.on_error == "fail":
        return error
    for row in piece.rows:
        failures.note(sink, sink.text(), row, error)
    return None


def no_key(sink: WebhookSink) -> StepError:
    """Return the error of a row without a key."""
    return StepError(
        f"a row has no key: {sink.key} is null",
        where=sink.text(),
        expected="a key in each row",
        next_step="filter such rows out before write",
    )


class WebhookWriter:
    """Where a stream sends to a webhook. Belongs to one thread."""

    def __init__(
        self, log: LocalLog, sink: WebhookSink, *, store: str, flow: str, stop: Stop | None
    ) -> None:
        """Make the topic of dead letters, if there are to be some. Nothing is connected yet."""
        self._log = log
        self._sink = sink
        self._stop = stop
        self._failures = Failures(log.store.clock.now_us)
        self._dead = open_refused(log, sink, flow)
        self._sender = WebhookSender(sink, prefix=(store, flow), clock=log.store.clock)
        self._sender.stop = stop
        self.delivered = 0
        """The number of the last delivery that has arrived whole."""
        self.owes = False
        """Whether a stop came between."""

    @property
    def failed(self) -> int:
        """How many rows were refused that the run went on without."""
        return self._failures.count

    def write(self, rows: pa.Table) -> Packed | None:
        """Return the rows for the catalog; None if there are none. Raises StepError for a row without a key."""
        if not rows.num_rows:
            return None
        if self._sink.key is not None and rows[self._sink.key].null_count:
            raise no_key(self._sink)
        return packed(rows, ANY_WEBHOOK)

    def resume(self, delivery: Delivery | None) -> None:
        """Send what the last commit of the store promised, behind the last mark."""
        if delivery is not None:
            self.deliver(delivery)

    def deliver(self, delivery: Delivery) -> None:
        """Send the rows in order and note how far that has come. Raises StepError when the receiver does not take them.

        A stop is heard between two requests and while a retry is waited for: then the rest is owed.
        """
        rows = unpacked(delivery, ANY_WEBHOOK)
        pieces = self._sender.pieces(rows, delivery.number, delivery.done)
        done = delivery.done
        self.owes = True
        while window := list(islice(pieces, self._sink.concurrency)):
            if self._stop is not None and self._stop.is_set():
                return
            outcome = _Outcome(self._sink, window, self._sender.send(window), self._failures)
            reach("flow.webhook_sent")
            if outcome.done > done:
                self._mark(delivery, done, outcome.done)
                done = outcome.done
            reach("flow.webhook_marked")
            if outcome.error is not None:
                raise outcome.error
            if outcome.stopped:
                return
        self.owes = False
        self.delivered = delivery.number

    def _mark(self, delivery: Delivery, before: int, done: int) -> None:
        """Note how many rows have arrived, in one transaction with the letters of those that were refused."""
        letters = self._failures.take()
        outputs = [] if letters is None or self._dead is None else [(self._dead, letters)]
        values = {"done": done, "number": delivery.number, "before": before}

        def work(tx: Transaction, staged: list[Staged]) -> None:
            if not tx.run("flows/delivery_mark", values):
                raise Fenced(
                    "another process goes on with the delivery",
                    where=self._sink.text(),
                    expected="one process that streams the flow",
                    next_step="let this process end; nothing is lost",
                )
            for output in staged:
                output.apply(tx)

        # A mark that a power loss takes away costs requests that are known to the receiver; a letter would be lost.
        commit_staged(self._log, outputs, work, durability=None if outputs else Durability.PROCESS)

    def close(self) -> None:
        """Close the connections; what has not arrived stays in the catalog."""
        self._sender.close()


def webhook_writer(
    log: LocalLog, plan: Plan, *, store: str, flow: str, stop: Stop | None
) -> WebhookWriter | None:
    """Return the writer of a plan that ends in a webhook, or None."""
    sink = plan.sink
    if not isinstance(sink, WebhookSink):
        return None
    return WebhookWriter(log, sink, store=store, flow=flow, stop=stop)


def open_refused(log: LocalLog, sink: WebhookSink, flow: str) -> TopicInfo | None:
    """Return the topic of the rows that a receiver refuses, made if it is missing; None if none is asked for."""
    asked = sink.on_error == "dead_letter"
    return open_topic(log, TopicSink(f"{flow}.dead"), DEAD_SCHEMA) if asked else None


def post_all(
    log: LocalLog, sink: WebhookSink, rows: pa.Table, *, flow: str, failures: Failures
) -> None:
    """Send the rows of a batch, in order; what is refused is noted in ``failures``. Raises StepError, perhaps midway.

    The keys hold the number of the run: another run sends all rows anew, unless the sink has a key of its own.
    """
    sender = WebhookSender(sink, prefix=(store_identity(log.store), flow), clock=log.store.clock)
    try:
        if sink.key is not None and rows[sink.key].null_count:
            raise no_key(sink)
        pieces = sender.pieces(rows, new_id(log.store.clock))
        while window := list(islice(pieces, sink.concurrency)):
            outcome = _Outcome(sink, window, sender.send(window), failures)
            reach("flow.webhook_sent")
            if outcome.error is not None:
                raise outcome.error
    finally:
        sender.close()
