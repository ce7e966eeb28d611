"""When a producer sends, and when it makes its callers wait."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.log.batching import batching_policy
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.limits import PRODUCER_BATCH_EVENTS, PRODUCER_BUFFER_BYTES
from tests.refusals import refused


def test_the_defaults_are_the_named_limits():
    policy = batching_policy()
    assert policy.linger_us == 5_000
    assert policy.block_timeout_us == 60_000_000
    assert not policy.is_due(events=PRODUCER_BATCH_EVENTS - 1, waited_us=0)
    assert policy.is_due(events=PRODUCER_BATCH_EVENTS, waited_us=0)
    assert not policy.is_full(PRODUCER_BUFFER_BYTES - 1)
    assert policy.is_full(PRODUCER_BUFFER_BYTES)


@pytest.mark.parametrize(
    ("events", "waited_us", "due"),
    [
        (0, 0, False),
        (0, 10**9, False),
        (1, 999, False),
        (1, 1_000, True),
        (3, 0, True),
        (2, 0, False),
    ],
)
def test_a_batch_goes_when_it_is_full_or_its_oldest_event_has_waited(
    events: int, waited_us: int, due: bool
):
    policy = batching_policy(linger="1ms", batch_events=3)
    assert policy.is_due(events=events, waited_us=waited_us) is due


def test_without_linger_everything_goes_at_once():
    assert batching_policy(linger="0s").is_due(events=1, waited_us=0)


@pytest.mark.parametrize(
    "options", [{"batch_events": 0}, {"buffer_bytes": 0}, {"batch_events": -1}]
)
def test_numbers_that_are_not_positive_are_refused(options: dict[str, Any]):
    with refused(ConfigurationError, "positive"):
        batching_policy(**options)


@pytest.mark.parametrize("options", [{"linger": "fast"}, {"block_timeout": 5}])
def test_what_is_no_duration_is_refused(options: dict[str, Any]):
    with refused(ConfigurationError, somewhere=False):
        batching_policy(**options)
