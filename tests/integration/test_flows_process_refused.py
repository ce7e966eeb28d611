"""What does not fit a function with state, or what was kept of it, is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, make_dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from millstream.flows import aggregate as agg
from millstream.flows.flow import Flow
from millstream.flows.keyed_context import KeyedContext
from millstream.flows.windows import tumbling
from millstream.primitives.errors import PlanError, StepError
from millstream.primitives.schema import Timestamp
from millstream.testing.flows_suite import LocalWorld, at
from tests.refusals import refused


@pytest.fixture
def world(store_path: Path) -> Iterator[LocalWorld]:
    with LocalWorld(store_path) as world:
        world.topic("clicks", {"user": str, "page": str, "at": Timestamp | None})
        yield world


CLICK = {"user": "a", "page": "1", "at": at(5)}


def numbered(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return event


BAD: dict[str, tuple[Callable[[Flow], object], str]] = {
    "a key that is not there": (lambda f: f.key_by("usr"), "'usr'"),
    "a key twice": (lambda f: f.key_by("user", "user"), "named twice"),
    "a key of floats": (
        lambda f: f.with_columns(x=1.5).key_by("x"),
        "cannot be a key",
    ),
    "a time that is none": (lambda f: f.key_by("user", time="page"), "'page' is string"),
    "late without a time": (lambda f: f.key_by("user", late="1m"), "no event is late"),
    "no time to live": (lambda f: f.key_by("user", ttl="0s"), "nothing would be remembered"),
    "no function": (lambda f: f.key_by("user").process(1, {"n": int}), "1 cannot be called"),  # type: ignore[arg-type]
    "a timer that is none": (
        lambda f: f.key_by("user").process(numbered, {"n": int}, on_timer=1),  # type: ignore[arg-type]
        "1 cannot be called",
    ),
    "a policy that there is not": (
        lambda f: f.key_by("user").process(numbered, {"n": int}, on_error="retry"),
        "'retry'",
    ),
    "a state without defaults": (
        lambda f: f.key_by("user").process(
            numbered, {"n": int}, state=make_dataclass("Bare", [("n", int)])
        ),
        "state=Bare cannot be kept",
    ),
    "a state that msgpack does not know": (
        lambda f: f.key_by("user").process(numbered, {"n": int}, state=object),
        "state=object cannot be kept",
    ),
    "a window on a time that is not the function's": (
        lambda f: (
            f.key_by("user", time="at")
            .process(numbered, {"user": str, "then": Timestamp})
            .window(tumbling("1h"), on="then")
            .agg(n=agg.count())
            .write("out")
            .stream(until="end")
        ),
        "'then' does not say what can still come",
    ),
    "a window behind a function without a time": (
        lambda f: (
            f.key_by("user")
            .process(numbered, {"user": str, "at": Timestamp})
            .window(tumbling("1h"), on="at")
            .agg(n=agg.count())
            .write("out")
            .stream(until="end")
        ),
        "'at' does not say what can still come",
    ),
    "late events behind a function": (
        lambda f: (
            f.key_by("user", time="at")
            .process(numbered, {"user": str, "at": Timestamp})
            .key_by("user", time="at", late="1m")
            .process(numbered, {"n": int})
            .write("out")
            .stream(until="end")
        ),
        "only events of the source can be late",
    ),
    "a function before a join": (
        lambda f: (
            f.key_by("user")
            .process(numbered, {"user": str, "at": Timestamp})
            .join_interval(f, on="user", within=("0s", "1m"), time=("at", "at"))
            .write("out")
            .stream(until="end")
        ),
        "both sides have a column 'at'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_when_the_plan_is_built(world: LocalWorld, case: str) -> None:
    build, saying = BAD[case]
    with pytest.raises(PlanError) as caught:
        build(world.read("clicks"))
    error = caught.value
    assert saying in str(error)
    assert error.where
    assert error.expected


def test_a_changed_type_of_state_goes_on_if_it_can_hold_what_was_kept(world: LocalWorld) -> None:
    world.append("clicks", [CLICK])

    def streamed(kind: type) -> None:
        def step(event: dict[str, Any], context: Any) -> dict[str, Any]:
            context.state.n += 1
            return {"n": context.state.n}

        keyed = world.read("clicks").key_by("user")
        keyed.process(step, {"n": int}, state=kind).write("out").stream(until="end")

    streamed(make_dataclass("Count", [("n", int, field(default=0))]))
    world.append("clicks", [CLICK])
    more = [("n", int, field(default=0)), ("label", str, field(default="new"))]
    streamed(make_dataclass("Count", more))
    assert [row["n"] for row in world.events("out")] == [1, 2]
    with refused(PlanError, "the state that was kept of key 'a' is no Count", "Expected `str`"):
        streamed(make_dataclass("Count", [("n", str, field(default=""))]))
    with refused(PlanError, "process(state=Count)", "process(state=Other)"):
        streamed(make_dataclass("Other", [("n", int, field(default=0))]))


@dataclass
class Seen:
    n: int = 0
    hours: list[float] = field(default_factory=list)
    since: datetime | None = None


NOT_KEPT: dict[str, tuple[Any, Any, str]] = {
    "no value that bytes stand for": (dict, {"x": object()}, "Encoding objects of type object"),
    "too large": (int, 2**64, "can't serialize ints"),
    "another type": (dict, "x", "Expected `object`, got `str`"),
    "a field of another type": (Seen, Seen(n="1"), "Expected `int`, got `str` - at `$.n`"),  # type: ignore[arg-type]
    "null in a field that has none": (Seen, Seen(n=None), "Expected `int`, got `None`"),  # type: ignore[arg-type]
    "a date, as a text": (dict, {"x": date(2026, 1, 1)}, "it['x'] is datetime.date(2026, 1, 1)"),
    "a set, as a list": (dict, {"x": [{1}]}, "it['x'][0] is {1} and would come back as [1]"),
    "a tuple, as a list": (list, (1, 2), "it is (1, 2) and would come back as [1, 2]"),
    "a tuple in a field": (Seen, Seen(hours=(1.5,)), "it.hours is (1.5,)"),  # type: ignore[arg-type]
    "an object, as a dict": (dict, {"x": Seen()}, "it['x'] is Seen(n=0, hours=[], since=None)"),
}


@pytest.mark.parametrize("case", NOT_KEPT)
def test_state_that_cannot_be_kept_is_refused(world: LocalWorld, case: str) -> None:
    """It would be found when the stream is started again: as other values, or not at all."""
    kind, state, saying = NOT_KEPT[case]
    world.append("clicks", [CLICK, CLICK])

    def odd(event: dict[str, Any], context: Any) -> None:
        context.state = state

    def flow(policy: str) -> Flow:
        keyed = world.read("clicks").named(policy).key_by("user")
        return keyed.process(odd, {"n": int}, state=kind, on_error=policy).write("out")

    with refused(StepError, "the state of key 'a' cannot be kept", saying):
        flow("fail").stream(until="end")
    for policy in ("skip", "dead_letter"):
        # An event that leaves such a state is one that the function fails for.
        assert flow(policy).stream(until="end").failed == 2
    assert [saying in letter["error"] for letter in world.events("dead_letter.dead")] == [True] * 2


def test_state_with_nan_can_be_kept(world: LocalWorld) -> None:
    world.append("clicks", [CLICK, CLICK])

    @dataclass(eq=False)
    class Odd:
        seen: Seen = field(default_factory=Seen)
        told: dict[str, float] = field(default_factory=dict)

    def odd(event: dict[str, Any], context: KeyedContext[Odd]) -> dict[str, Any]:
        context.state.seen.hours.append(math.nan)
        context.state.told["x"] = math.nan
        return {"n": len(context.state.seen.hours)}

    keyed = world.read("clicks").key_by("user")
    keyed.process(odd, {"n": int}, state=Odd).write("out").stream(until="end", batch_events=1)
    assert [row["n"] for row in world.events("out")] == [1, 2]


def test_bad_timers_are_refused(world: LocalWorld) -> None:
    world.append("clicks", [CLICK])

    def setting(when: object) -> Callable[[dict[str, Any], Any], None]:
        return lambda event, context: context.set_timer(when)  # type: ignore[arg-type]

    def ring(context: Any) -> None:
        context.set_timer(context.time)

    keyed = world.read("clicks").key_by("user", time="at")
    flows = {
        "a timer for 5": keyed.process(setting(5), {"n": int}, on_timer=ring),
        "a timer for datetime": keyed.process(
            setting(at(9).replace(tzinfo=None)), {"n": int}, on_timer=ring
        ),
        "nobody would hear": keyed.process(setting(at(9)), {"n": int}),
        "there are no timers of event time": world.read("clicks")
        .key_by("user")
        .process(setting(at(9)), {"n": int}, on_timer=ring),
        "a timer for": keyed.process(setting(at(9)), {"n": int}, on_timer=ring),
    }
    for saying, flow in flows.items():
        with refused(StepError, saying):
            flow.run()


@pytest.mark.parametrize("setting", ["set_timer", "set_clock_timer"])
def test_the_name_of_a_timer_is_a_text(world: LocalWorld, setting: str) -> None:
    """Another one could not be read back when the stream is started again."""
    world.append("clicks", [CLICK])

    def numbered(event: dict[str, Any], context: Any) -> None:
        getattr(context, setting)(at(9) if setting == "set_timer" else "1m", 5)

    keyed = world.read("clicks").key_by("user", time="at")
    flow = keyed.process(numbered, {"n": int}, on_timer=lambda context: None).write("out")
    with refused(StepError, "a timer with the name 5", "a text"):
        flow.stream(until="end")


@pytest.mark.parametrize("setting", ["set_timer", "set_clock_timer"])
def test_timers_that_nobody_hears_any_more_are_refused(world: LocalWorld, setting: str) -> None:
    world.append("clicks", [CLICK])

    def ask(event: dict[str, Any], context: Any) -> None:
        getattr(context, setting)(at(60) if setting == "set_timer" else "1h")

    def ring(context: Any) -> dict[str, Any]:
        return {"n": 1}

    # Behind the first click, so that the first has been processed when the stream stops.
    world.append("clicks", [{**CLICK, "user": "b", "at": at(6)}])
    keyed = world.read("clicks").key_by("user", time="at")
    keyed.process(ask, {"n": int}, on_timer=ring).write("out").stream(until="now")
    deaf = keyed.process(lambda event, context: None, {"n": int}).write("out")
    with refused(
        PlanError, "the key 'a' has a timer", "nobody would hear of it", "step 1, process"
    ):
        deaf.stream(until="end")
    keyed.process(ask, {"n": int}, on_timer=ring).write("out").stream(until="end")
    assert [row["n"] for row in world.events("out")] == [1, 1]
