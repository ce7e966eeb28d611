"""Signed messages over HTTP: what a sender puts into headers, and what a receiver believes. Pure.

Two schemes, both HMAC-SHA256 over the exact bytes of the body:

``standard``  Standard Webhooks 1.0.0 (standardwebhooks.com): ``webhook-id``, ``webhook-timestamp`` in seconds, and
              ``webhook-signature: v1,<base64>`` over ``id.timestamp.body``. A secret is base64, after ``whsec_``.
``github``    GitHub, "Validating webhook deliveries": ``x-hub-signature-256: sha256=<hex>`` over the body. A secret is
              any text. It does not say when it was signed, so an old message passes for ever.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from millstream.primitives.errors import ConfigurationError

SCHEMES: Final = ("standard", "github")
TOLERANCE_S: Final = 300
"""How far the clock of a sender may be from ours, either way; what Standard Webhooks recommends."""


def secret_key(secret: str, scheme: str, *, where: str) -> bytes:
    """Return the key that a secret stands for. Raises ConfigurationError for a scheme or a secret that is none."""
    if scheme not in SCHEMES:
        raise ConfigurationError(
            f"{scheme!r} is not a way to sign",
            where=where,
            expected=f"one of {', '.join(SCHEMES)}",
            next_step="leave it out for Standard Webhooks",
        )
    try:
        key = (
            base64.b64decode(secret.removeprefix("whsec_"), validate=True)
            if scheme == "standard"
            else secret.encode()
        )
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigurationError(
            "the secret of a webhook cannot be read",
            where=where,
            expected="base64 behind whsec_" if scheme == "standard" else "a text that is not empty",
            next_step='make one: "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()',
        )
    return key


def signed(scheme: str, key: bytes, *, message_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Return the headers that sign a message sent at a time in seconds since 1970."""
    if scheme == "github":
        return {"x-hub-signature-256": _github(key, body)}
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{_standard(key, message_id, str(at_s), body)}",
    }


def misfit(
    scheme: str, keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, *, now_s: int
) -> str | None:
    """Return why a message is not believed, or None if one of the keys has signed it; names of headers are lower case.

    Several keys are for the time in which a secret is changed.
    """
    if scheme == "github":
        given = headers.get("x-hub-signature-256", "")
        if not given:
            return "there is no header x-hub-signature-256"
        return _unless(_matches(given, _github(key, body)) for key in keys)
    identity, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    given = headers.get("webhook-signature", "")
    if not (identity and at and given):
        return "one of the headers webhook-id, webhook-timestamp, webhook-signature is missing"
    if "." in identity:
        # Or the same bytes could be read as another message: the scheme joins id, time and body with it.
        return "webhook-id holds a full stop"
    if not (at.isascii() and at.isdigit()) or abs(now_s - int(at[:18])) > TOLERANCE_S:
        return f"webhook-timestamp is not within {TOLERANCE_S} seconds of the clock here"
    wanted = [f"v1,{_standard(key, identity, at, body)}" for key in keys]
    return _unless(_matches(one, want) for one in given.split(" ") for want in wanted)


def _standard(key: bytes, identity: str, at: str, body: bytes) -> str:
    text = f"{identity}.{at}.".encode() + body
    return base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


def _github(key: bytes, body: bytes) -> str:
    return f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"


def _matches(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _unless(matches: Iterable[bool]) -> str | None:
    # All are compared, so that the time it takes does not tell which one fits.
    return None if any(list(matches)) else "the signature does not fit the body"
