"""Whether a stream may go on from the state that another plan of its name has left.

The state of a stream is what aggregations have gathered and functions remember, so everything before and in the last
step that keeps state must be the same: the source, each step's text, the window, the keys and the aggregates; of a
``process`` that is the last one its key, time and type of state; of a join of two streams both its sides and how they
are joined. What comes after it may change, and so may the rows of a joined table and the code of a function. A stream
without state keeps nothing but its place in the sources, so there only the sources must be the same.

A flow without a name of its own is called after its end. Two flows may so share a name by accident (topic ``orders``,
directory ``copies/orders/``): the second would go on from the place of the first. So its end must be the same too.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import Final

from millstream.flows.branches import is_stateful, sources
from millstream.flows.places import shown
from millstream.flows.plan import Plan
from millstream.flows.source import FileSink, Sink
from millstream.flows.sql import SqlSink

_END: Final = "write "


def fingerprint(plan: Plan) -> tuple[str, ...]:
    """Return the texts that must not change while there is state."""
    if plan.is_named or plan.sink is None:
        return _kept(plan)
    return (*_kept(plan), f"{_END}{_place(plan.sink)}")


def _place(sink: Sink) -> str:
    """Return where an output goes, not how it is written there."""
    match sink:
        case FileSink(path=path):
            return f"files at {shown(path)!r}"
        case SqlSink():
            return replace(sink, key=()).text()
    return sink.text()


def _kept(plan: Plan) -> tuple[str, ...]:
    if not is_stateful(plan):
        return (", ".join(source.text() for source in sources(plan)),)
    stateful = plan.stateful()
    if not stateful:
        return (plan.source.text(),)
    last = max(stateful)
    texts = [step.text() for step in plan.steps[:last]]
    return (plan.source.text(), *texts, stateful[last].kept_text())


def difference(before: tuple[str, ...], now: tuple[str, ...]) -> str | None:
    """Return the first difference in words, or None if a stream may continue."""
    (before, went_to), (now, goes_to) = _ended(before), _ended(now)
    for index, (old, new) in enumerate(zip_longest(before, now)):
        if old == new:
            continue
        place = "the source" if index == 0 else f"step {index}"
        if old is None:
            return f"{place} is new: {new}"
        if new is None:
            return f"{place} is gone: {old}"
        return f"{place} was {old} and is now {new}"
    if went_to and goes_to and went_to != goes_to:
        return (
            f"it ended in {went_to} and ends now in {goes_to}, and has its name from there; two flows need two names, "
            "and .named(…) with this one says that both are one flow"
        )
    return None


def _ended(texts: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    if texts and texts[-1].startswith(_END):
        return texts[:-1], texts[-1].removeprefix(_END)
    return texts, None
