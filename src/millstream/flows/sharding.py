"""Whether a flow can be divided by the partitions of its topics: what a step remembers must hang on one of them.

    topic, key user     p0 ─ ann, cem ──▶ steps, state of ann and cem        unit 0
                        p1 ─ bob ───────▶ steps, state of bob                unit 1

A unit is one partition of each source. Steps that look at single rows need nothing. A step with state needs that the
rows which it puts together always lie in one partition: the key of the topic is among its keys, unchanged on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from millstream.flows.branches import Branch, branches, is_stateful, sources
from millstream.flows.expression import Column, Expression
from millstream.flows.keyed import Process
from millstream.flows.lakes import LakeSink, LakeSource
from millstream.flows.learning import Fit
from millstream.flows.merging import JoinSource
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.source import FileSource, TopicSource
from millstream.flows.steps import AsofJoin, Explode, Filter, Join, Select, Step, WithColumns
from millstream.flows.webhook import WebhookSink
from millstream.primitives.errors import PlanError


@dataclass(frozen=True)
class TopicKey:
    """What a topic is divided by: its key column, if it has one, and into how many partitions."""

    key: str | None
    partitions: int


@dataclass(frozen=True)
class Sharding:
    """How a flow is divided. ``keys`` names in each of its states a column that says which unit a row belongs to."""

    units: int
    keys: tuple[str, ...] = ()

    @property
    def is_keyed(self) -> bool:
        """Whether events must lie where their key says."""
        return bool(self.keys)


def sharding(plan: Plan, topics: Mapping[str, TopicKey]) -> Sharding:
    """Return how the flow is divided. Raises PlanError if it cannot be; ``topics`` are those it reads."""
    _refuse_undivided(plan)
    for source in sources(plan):
        if isinstance(source, FileSource):
            raise PlanError(
                f"{source.text()} cannot be shared: all files are one partition",
                where="read",
                expected="a topic with partitions",
                next_step="stream the files to a topic with a key and several partitions, and share a second flow "
                "that reads it",
            )
    found = [topics[source.topic] for source in sources(plan) if isinstance(source, TopicSource)]
    units = max(topic.partitions for topic in found)
    if not is_stateful(plan):
        return Sharding(units)
    if any(topic.partitions != units for topic in found):
        counts = ", ".join(f"{name!r} {topic.partitions}" for name, topic in topics.items())
        raise PlanError(
            "topics of different numbers of partitions cannot be shared: equal keys do not meet",
            where="read",
            expected=f"the same number of partitions in each topic; there are {counts}",
            next_step="write one of them to a topic with as many partitions as the other, and read that",
        )
    return Sharding(units, _keys_of_states(plan, topics))


def _refuse_undivided(plan: Plan) -> None:
    """Raise PlanError for what is one for all partitions."""
    what = next((step.text() for step in plan.steps if isinstance(step, Fit)), None)
    if isinstance(plan.sink, LakeSink | WebhookSink):
        what = plan.sink.text()
    what = next((s.text() for s in sources(plan) if isinstance(s, LakeSource)), what)
    if what is not None:
        raise PlanError(
            f"{what} is one for all partitions, and cannot be shared",
            where="stream(shared=True)",
            expected="topics, and an output to a topic, files, a database or tasks",
            next_step="stream that part with one process, for example behind a topic that a shared flow writes",
        )


def _keys_of_states(plan: Plan, topics: Mapping[str, TopicKey]) -> tuple[str, ...]:
    """Return a column for each state that holds the topic's key. Raises PlanError where there is none."""
    sides = [
        [_branch_keys(branch, topics) for branch in branches(plan) if branch.side == side]
        for side in (0, 1)
    ]
    keys: list[str] = []
    if isinstance(plan.source, JoinSource):
        join = plan.source
        left, right = (frozenset.intersection(*of_side) for of_side in sides)
        pairs = zip(join.left_on, join.right_on, strict=True)
        met = [(a, b) for a, b in pairs if a in left and b in right]
        if not met:
            raise _refused(
                join.name, f"on {', '.join(join.left_on)}", topics, more=" on both sides"
            )
        keys += met[0]
        known, at = frozenset(a for a, _ in met), 0
    else:
        known, at = frozenset.intersection(*sides[0]), min(plan.stateful())
    for number, step in enumerate(plan.steps[at:], at + 1):
        where = f"step {number}, {step.name}"
        match step:
            case Aggregation(keys=named):
                if step.counts_rows:  # Rows wait before they are counted.
                    keys += _first(known, where, step.text(), topics)
                known = _given_as(named, known)
                keys += _first(known, where, step.text(), topics)
            case Process(keyed=keyed):
                # Until it gives something else: what a function gives, nobody knows.
                keys += 2 * _first(known & set(keyed.keys), where, step.text(), topics)
                known = frozenset()
            case _:
                known = _after(step, known)
    return tuple(keys)


def _first(
    known: Iterable[str], where: str, text: str, topics: Mapping[str, TopicKey]
) -> list[str]:
    names = sorted(known)
    if not names:
        raise _refused(where, text, topics)
    return names[:1]


def _refused(where: str, text: str, topics: Mapping[str, TopicKey], more: str = "") -> PlanError:
    named = ", ".join(f"{name!r} has {topic.key or 'none'}" for name, topic in topics.items())
    return PlanError(
        f"{text} puts rows of different partitions together, which one worker alone cannot do",
        where=where,
        expected=f"the key of the topic among its keys{more}, unchanged on the way; key: {named}",
        next_step="write it to a topic with that key first, .write(topic, key=…, partitions=…), and share a second "
        "flow that reads the topic; or stream it with one process",
    )


def _branch_keys(branch: Branch, topics: Mapping[str, TopicKey]) -> frozenset[str]:
    """Return the columns at the end of a branch that hold the topic's key."""
    assert isinstance(branch.source, TopicSource), "files were refused"
    key = topics[branch.source.topic].key
    known = frozenset([] if key is None else [key])
    for step in branch.steps:
        known = _after(step, known)
    return known


def _after(step: Step, known: frozenset[str]) -> frozenset[str]:
    """Return the columns that hold the key behind a step without state."""
    match step:
        case Filter() | Join() | AsofJoin():
            return known
        case Explode(column=column):
            return known - {column}
        case WithColumns(columns=columns):
            return (known - {name for name, _ in columns}) | _given_as(columns, known)
        case Select(columns=columns):
            return _given_as(columns, known)
        case _:
            return frozenset()


def _given_as(columns: Iterable[tuple[str, Expression]], known: frozenset[str]) -> frozenset[str]:
    return frozenset(n for n, value in columns if isinstance(value, Column) and value.name in known)
