"""Sequences: options and events that are refused, and the presets."""

from __future__ import annotations

from typing import Any

import pytest

import millstream as ms
from millstream.primitives.errors import PayloadError, PlanError, SchemaError
from tests.refusals import refused
from tests.unit.flows.sequences import feed, ordered, sequencer


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"wait": "soon"}, "wait"),
        ({"wait": -1}, "wait"),
        ({"wait": True}, "wait"),
        ({"min_wait": "1s"}, "min_wait"),
        ({"wait": "auto", "min_wait": "3s"}, "min_wait"),
        ({"wait": "auto", "max_wait": "1us"}, "max_wait"),
        ({"gap": "skip"}, "gap"),
        ({"late": "keep"}, "late"),
        ({"overflow": "drop"}, "overflow"),
        ({"start": "last"}, "start"),
        ({"start": 1.5}, "start"),
        ({"start": -1, "modulo": 2**16}, "start"),
        ({"start": 2**16, "modulo": 2**16}, "start"),
        ({"modulo": 1}, "modulo"),
        ({"modulo": 6_000}, "max_dropout"),
        ({"modulo": 256, "max_dropout": 20, "max_misorder": 128}, "max_misorder"),
        ({"max_events": 0}, "max_events"),
        ({"max_bytes": "much"}, "max_bytes"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_dropout": 0}, "max_dropout"),
        ({"max_misorder": 0}, "max_misorder"),
        ({"max_misorder": 2**21}, "max_misorder"),
        ({"max_keys": 0}, "max_keys"),
        ({"forget": "never"}, "forget"),
        ({"forget": "0s"}, "forget"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str):
    with refused(PlanError, said):
        ms.SequenceOptions(**options)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (("k", None, 0, b""), SchemaError),
        (("k", True, 0, b""), SchemaError),
        (("k", 1.0, 0, b""), SchemaError),
        (("k", 2**63, 0, b""), SchemaError),
        (("k", 1, None, b""), SchemaError),
        (("k", 1, "noon", b""), SchemaError),
        (("k", 1, 0, object()), PayloadError),
    ],
)
def test_events_that_do_not_fit_are_refused_before_any_is_taken(bad: Any, error: type[Any]):
    machine = sequencer()
    with refused(error, "k"):
        machine.feed([("k", 1, 0, b""), bad])
    assert machine.counts.received == 0
    assert ordered(feed(machine, 1)) == [1]


def test_a_number_beyond_the_modulo_is_refused():
    machine = ms.Sequencer(ms.audio_video())
    with refused(SchemaError, "65536", "65,535"):
        feed(machine, 65_536)


def test_presets():
    sound, books = ms.audio_video(), ms.ledger(start=1)
    assert (sound.gap, sound.late, sound.wait, sound.modulo) == ("emit", "drop", "auto", 2**16)
    assert (books.gap, books.overflow, books.start) == ("hold", "block", 1)
    assert ms.SequenceOptions(wait=2.5).wait_us == ms.SequenceOptions(wait="2500ms").wait_us
