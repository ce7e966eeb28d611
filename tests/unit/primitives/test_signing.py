"""Signatures of webhooks, against the examples that those who made the schemes publish."""

from __future__ import annotations

import pytest

from millstream.primitives.errors import ConfigurationError
from millstream.primitives.signing import TOLERANCE_S, misfit, secret_key, signed

BODY = b'{"test": 2432232314}'
AT_S = 1_614_265_330
KEY = secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "standard", where="here")
HEADERS = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": str(AT_S),
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def test_the_example_of_standard_webhooks():
    """From the test of the reference libraries, github.com/standard-webhooks/standard-webhooks."""
    identity = HEADERS["webhook-id"]
    assert signed("standard", KEY, message_id=identity, at_s=AT_S, body=BODY) == HEADERS
    assert misfit("standard", [KEY], HEADERS, BODY, now_s=AT_S) is None


def test_the_example_of_github():
    """From GitHub's page "Validating webhook deliveries"."""
    key = secret_key("It's a Secret to Everybody", "github", where="here")
    wanted = {
        "x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    }
    assert signed("github", key, message_id="", at_s=0, body=b"Hello, World!") == wanted
    assert misfit("github", [key], wanted, b"Hello, World!", now_s=0) is None
    assert misfit("github", [key], wanted, b"Hello, World?", now_s=0) is not None
    assert "no header" in str(misfit("github", [key], {}, b"", now_s=0))


def test_one_of_several_signatures_and_keys_is_enough():
    other = b"other"
    two = {**HEADERS, "webhook-signature": "v1,bm8= " + HEADERS["webhook-signature"]}
    assert misfit("standard", [other, KEY], two, BODY, now_s=AT_S) is None
    assert misfit("standard", [other], two, BODY, now_s=AT_S) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_other"},
        {"webhook-timestamp": str(AT_S + 1)},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": "²"},
        {"webhook-signature": ""},
        {"webhook-signature": HEADERS["webhook-signature"].replace("v1,", "v2,")},
        {"webhook-signature": "v1,é"},
    ],
)
def test_what_was_changed_is_not_believed(change: dict[str, str]):
    assert misfit("standard", [KEY], {**HEADERS, **change}, BODY, now_s=AT_S) is not None


def test_bytes_cannot_be_read_as_another_message():
    """A body that begins with digits: the id takes over the time, and the time a part of the body."""
    body = f"{AT_S}.more".encode()
    good = signed("standard", KEY, message_id="a", at_s=AT_S, body=body)
    assert misfit("standard", [KEY], good, body, now_s=AT_S) is None
    moved = {**good, "webhook-id": f"a.{AT_S}"}
    assert misfit("standard", [KEY], moved, b"more", now_s=AT_S) == "webhook-id holds a full stop"


@pytest.mark.parametrize(("away", "fits"), [(TOLERANCE_S, True), (TOLERANCE_S + 1, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_old_or_of_the_future_is_not_believed(away: int, fits: bool, sign: int):
    found = misfit("standard", [KEY], HEADERS, BODY, now_s=AT_S + sign * away)
    assert (found is None) is fits


@pytest.mark.parametrize(
    ("secret", "scheme"), [("whsec_!", "standard"), ("", "standard"), ("", "github"), ("x", "md5")]
)
def test_secrets_that_are_none_are_refused(secret: str, scheme: str):
    with pytest.raises(ConfigurationError):
        secret_key(secret, scheme, where="here")
