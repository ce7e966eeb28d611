"""Whether a stream may go on from the state that another plan of its name has left.

The state of a stream is what aggregations have gathered and functions remember, so everything before and in the last
step that keeps state must be the same: the source, each step's text, the window, the keys and the aggregates; of a
``process`` that is the last one its key, time and type of state; of a join of two streams both its sides and how they
are joined. What comes after it may change, and so may the rows of a joined table and the code of a function. A stream
without state keeps nothing but its place in the sources, so there only the sources must be the same.
"""

from __future__ import annotations

from itertools import zip_longest

from millstream.flows.branches import is_stateful, sources
from millstream.flows.plan import Plan


def fingerprint(plan: Plan) -> tuple[str, ...]:
    """Return the texts that must not change while there is state."""
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
    for index, (old, new) in enumerate(zip_longest(before, now)):
        if old == new:
            continue
        place = "the source" if index == 0 else f"step {index}"
        if old is None:
            return f"{place} is new: {new}"
        if new is None:
            return f"{place} is gone: {old}"
        return f"{place} was {old} and is now {new}"
    return None
