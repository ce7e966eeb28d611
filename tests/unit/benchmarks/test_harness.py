"""Rounds, figures and what becomes of a contender that cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import (
    OWN,
    Contender,
    Figure,
    Samples,
    Settings,
    Unavailable,
    Values,
    run_rounds,
)


def settings(tmp_path: Path, rounds: int = 3) -> Settings:
    return Settings(tmp_path, rounds=rounds)


def test_contenders_take_turns_in_fresh_directories(tmp_path: Path):
    turns: list[str] = []
    places: list[Path] = []

    def measure(name: str, place: Path) -> Values:
        assert list(place.iterdir()) == []
        (place / "left behind").touch()
        turns.append(name)
        places.append(place)
        return {"x": float(len(turns))}

    contenders = [
        Contender(OWN, lambda place: measure(OWN, place)),
        Contender("other", lambda place: measure("other", place)),
    ]
    outcome = run_rounds(contenders, settings(tmp_path), title="turns")

    # Who begins changes with the round.
    assert turns == [OWN, "other", "other", OWN, OWN, "other"]
    assert len(set(places)) == 6
    assert list(tmp_path.iterdir()) == []
    assert outcome.of(OWN, "x").values == (1.0, 4.0, 5.0)
    assert outcome.peers("x")["other"].median == 3.0
    assert outcome.peers("x")["other"].range == (2.0, 6.0)


def test_a_peer_that_fails_has_a_reason_and_no_value(tmp_path: Path):
    def refuse(place: Path) -> Values:
        raise Unavailable("not installed")

    def fail(place: Path) -> Values:
        raise OSError("its\n disk is full")

    contenders = [
        Contender("missing", refuse),
        Contender("broken", fail),
        Contender(OWN, lambda _: {"x": 1.0}),
    ]
    peers = run_rounds(contenders, settings(tmp_path), title="peers").peers("x")

    assert list(peers) == ["missing", "broken"]
    assert [peer.median for peer in peers.values()] == [None, None]
    figure = Figure("f", Samples((1.0,)), "events/s", peers=peers)
    assert figure.all_notes() == [
        "missing: not installed",
        "broken: failed with OSError: its disk is full",
    ]


def test_a_peer_that_fails_later_loses_the_values_it_had(tmp_path: Path):
    # A median of other rounds than ours would compare different moments of the machine.
    rounds = iter([1.0])
    contenders = [
        Contender("other", lambda _: {"x": next(rounds)}),
        Contender(OWN, lambda _: {"x": 2.0}),
    ]
    outcome = run_rounds(contenders, settings(tmp_path), title="later")
    assert outcome.peers("x")["other"].values == ()
    assert outcome.peers("x")["other"].reason == "failed with StopIteration: StopIteration"


def test_an_error_of_our_own_is_raised(tmp_path: Path):
    def fail(place: Path) -> Values:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        run_rounds([Contender(OWN, fail)], settings(tmp_path), title="own")
    assert list(tmp_path.iterdir()) == []


def test_what_we_cannot_run_here_is_not_met(tmp_path: Path):
    def refuse(place: Path) -> Values:
        raise Unavailable("needs 3 GiB of free disk")

    outcome = run_rounds([Contender(OWN, refuse)], settings(tmp_path), title="room")
    figure = Figure("f", outcome.of(OWN, "x"), "MiB", target=1.0)
    assert figure.met is False
    assert figure.all_notes() == ["millstream: needs 3 GiB of free disk"]


@pytest.mark.parametrize(
    ("value", "target", "better", "met"),
    [
        (5.0, 5.0, "higher", True),
        (4.9, 5.0, "higher", False),
        (5.0, 5.0, "lower", True),
        (5.1, 5.0, "lower", False),
        (5.0, None, "higher", None),
    ],
)
def test_the_median_meets_the_target_or_not(value, target, better, met):
    samples = Samples((value - 3.0, value, value + 1.0))
    assert Figure("f", samples, "x", target=target, better=better).met is met
