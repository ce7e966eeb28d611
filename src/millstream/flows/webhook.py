"""A webhook as the sink of a flow: ``flow.write(ms.webhook("https://…"))``. Only facts and decisions are here.

What an answer means:

    2xx                            taken
    408, 425, 429, 5xx, no answer  tried again after a while, in the order of the rows; then the run ends
    409                            tried again (the receiver still works on the same key), then refused
    any other                      refused: ``on_error`` says what becomes of the rows
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final
from urllib.parse import quote, urlsplit

import pyarrow as pa

from millstream.flows.kinds import INTEGER, TEXT
from millstream.flows.steps import ON_ERROR
from millstream.primitives.backoff import EXPONENTIAL, Backoff, BackoffLike, backoff_of
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import datetime_us
from millstream.primitives.signing import SCHEMES, secret_key

CONCURRENCY_MAX: Final = 256
BATCH_ROWS_MAX: Final = 10_000
WEBHOOK_RETRIES_MAX: Final = 1_000
RETRY_AFTER_MAX_US: Final = 3_600_000_000
"""A receiver that asks for more patience than an hour is asked again after an hour."""
METHODS: Final = ("POST", "PUT", "PATCH")
_AGAIN: Final = (408, 425, 429)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_OURS: Final = (
    "content-length", "content-type", "host", "idempotency-key", "transfer-encoding", "webhook-id",
    "webhook-signature", "webhook-timestamp", "x-hub-signature-256",
)  # fmt: skip


class Meaning(Enum):
    """What an answer says about the rows that were sent."""

    TAKEN = "taken"
    AGAIN = "again"
    """Not now. When no retry is left the run ends, and the rows stay in the store."""
    BUSY = "busy"
    """Not now. When no retry is left they are refused."""
    REFUSED = "refused"


@dataclass(frozen=True)
class WebhookSink:
    """A place on the web that gets the rows of a flow as JSON."""

    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    method: str = "POST"
    batch: int | None = None
    key: str | None = None
    timeout_us: int = 10_000_000
    concurrency: int = 1
    retries: int = 10
    backoff: Backoff = EXPONENTIAL
    on_error: str = "fail"
    secret_key: bytes | None = field(default=None, repr=False)
    signature: str = "standard"

    @property
    def name(self) -> str:
        """The name of a flow that ends here and has none of its own. The path is not in it: it may be a secret."""
        parts = urlsplit(self.url)
        host = str(parts.hostname).replace(":", ".")  # topics have names made of it
        return f"{host}-{zlib.crc32(parts.path.encode()):08x}"

    def text(self) -> str:
        """Return the canonical text: scheme, host and port, for the rest of a URL may be a secret."""
        parts = urlsplit(self.url)
        return f"webhook {parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def check(self, schema: pa.Schema, *, where: str) -> None:
        """Raise PlanError for columns that JSON cannot say, and for a key that is none of them."""
        for column in schema:
            if not is_json(column.type):
                raise PlanError(
                    f"JSON cannot hold column {column.name!r}: {column.type}",
                    where=where,
                    expected="numbers, texts, booleans, bytes, dates, times, and lists and structs of them",
                    next_step="cast() it, or select() it away",
                )
        if self.key is not None and (
            self.key not in schema.names or schema.field(self.key).type not in (INTEGER, TEXT)
        ):
            raise PlanError(
                f"the key {self.key!r} is not a column of text or integers",
                where=where,
                expected=f"one of: {', '.join(schema.names)}",
            )

    def meaning(self, status: int) -> Meaning:
        """Return what a status says."""
        if 200 <= status < 300:
            return Meaning.TAKEN
        if status in _AGAIN or status >= 500:
            return Meaning.AGAIN
        return Meaning.BUSY if status == 409 else Meaning.REFUSED


def webhook(  # noqa: PLR0913 - what is said of a receiver is said in one place
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    method: str = "POST",
    batch: int | None = None,
    key: str | None = None,
    timeout: Duration = "10s",
    concurrency: int = 1,
    retries: int = 10,
    backoff: BackoffLike = "exponential",
    on_error: str = "fail",
    secret: str | None = None,
    signature: str = "standard",
) -> WebhookSink:
    """Return a webhook as a sink: ``flow.write(ms.webhook("https://shop.example/orders"))``.

    Each row is a request with a JSON object; with ``batch`` up to so many rows are one, a JSON array. Requests have an
    ``Idempotency-Key`` that stays the same when they are sent again, after a retry or a crash: the receiver drops
    what it has seen. ``key`` is the column to use for it, of rows that are sent one by one.

    One request at a time, so the rows arrive in order; with ``concurrency`` up to so many, whose order is not sure.
    ``timeout`` is for a whole request. 408, 425, 429, 5xx and no answer at all are tried again ``retries`` times,
    after ``backoff`` or what ``Retry-After`` says, if that is longer; then the run ends with a StepError, and the next
    one goes on with those rows. ``on_error`` says what becomes of rows that are refused: ``"fail"`` ends the run
    likewise, ``"skip"`` counts them, ``"dead_letter"`` also writes them to the topic ``<flow>.dead``. With ``secret``
    requests are signed, as ``signature`` says: ``"standard"`` (Standard Webhooks) or ``"github"``.

    Raises PlanError, ConfigurationError for a duration, a backoff or a secret that is none.
    """
    where = "webhook(…)"
    parts = _url(url, where)
    _numbers(batch=batch, concurrency=concurrency, retries=retries, where=where)
    _word("method", method, METHODS, where)
    _word("on_error", on_error, ON_ERROR, where)
    _word("signature", signature, SCHEMES, where)
    if key is not None and batch is not None:
        raise PlanError(
            "a batch has no key of its own",
            where=where,
            expected="batch= or key=, not both",
            next_step="leave key= out: each request has a key that stays the same",
        )
    timeout_us = duration_us(timeout)
    if timeout_us <= 0:
        raise PlanError(f"timeout={timeout!r}", where=where, expected="a positive duration")
    return WebhookSink(
        parts,
        _headers(headers or {}, where),
        method,
        batch,
        key,
        timeout_us,
        concurrency,
        retries,
        backoff_of(backoff),
        on_error,
        None if secret is None else secret_key(secret, signature, where=where),
        signature,
    )


def _numbers(*, batch: int | None, concurrency: int, retries: int, where: str) -> None:
    for name, number, least, most in (
        ("batch", batch, 1, BATCH_ROWS_MAX),
        ("concurrency", concurrency, 1, CONCURRENCY_MAX),
        ("retries", retries, 0, WEBHOOK_RETRIES_MAX),
    ):
        if number is not None and not (type(number) is int and least <= number <= most):
            raise PlanError(
                f"{name}={number!r}", where=where, expected=f"an integer from {least} to {most}"
            )


def _word(name: str, word: str, known: tuple[str, ...], where: str) -> None:
    if word not in known:
        raise PlanError(f"{name}={word!r}", where=where, expected=f"one of {', '.join(known)}")


def _url(url: str, where: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not _HEADER_VALUE.fullmatch(url) or " " in url:
        raise PlanError(
            "the URL of a webhook cannot be understood",
            where=where,
            expected="http://… or https://… with a host, and no spaces",
        )
    return url


def _headers(headers: Mapping[str, str], where: str) -> tuple[tuple[str, str], ...]:
    for name, value in headers.items():
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise PlanError(
                f"header {name!r} cannot be sent",
                where=where,
                expected="a name and a value of printable ASCII",
                next_step="encode the value, as base64 perhaps",
            )
        if name.lower() in _OURS:
            raise PlanError(
                f"header {name!r} is set by the request itself",
                where=where,
                expected=f"none of {', '.join(_OURS)}",
            )
    return tuple(headers.items())


def is_json(kind: pa.DataType) -> bool:
    """Return whether JSON can say the values of a type."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return is_json(kind.value_type)
    if pa.types.is_struct(kind):
        return all(is_json(field.type) for field in kind)
    return not pa.types.is_nested(kind) and not pa.types.is_interval(kind)


def idempotency_key(store: str, flow: str, number: int | str, first: int, rows: int) -> str:
    """Return the key of the rows from ``first`` on of a delivery: the same whenever they are sent."""
    span = f"{first}" if rows == 1 else f"{first}-{first + rows - 1}"
    return f"{store}/{plain_text(flow)}/{number}/{span}"


def plain_text(text: str) -> str:
    """Return a text as a header may hold it, without the full stop that Standard Webhooks forbids in an id."""
    return quote(text, safe="").replace(".", "%2E")


def retry_after_us(text: str | None, *, now_us: int) -> int:
    """Return how long a receiver asks to wait: seconds or a date (RFC 9110, 10.2.3), or not at all."""
    if not text:
        return 0
    if text.isascii() and text.isdigit():
        return min(int(text[:9]) * 1_000_000, RETRY_AFTER_MAX_US)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max(datetime_us(at) - now_us, 0), RETRY_AFTER_MAX_US)
