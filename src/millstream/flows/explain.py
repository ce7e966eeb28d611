"""A plan as text for people."""

from __future__ import annotations

import pyarrow as pa

from millstream.flows.plan import Plan
from millstream.primitives.schema import describe


def explain(plan: Plan, *, name: str) -> str:
    """Return one line for the source, each step and the sink, with the columns where they change."""
    lines = [f"flow {name}", f"  read  {plan.source.text()}"]
    shown: pa.Schema | None = None
    schemas = plan.schemas()
    for number, schema in enumerate(schemas):
        if number:
            lines.append(f"  {number:<4}  {plan.steps[number - 1].text()}")
        if shown is None or not schema.equals(shown):
            lines.append(f"        -> {describe(schema)}")
            shown = schema
    if plan.sink is not None:
        lines.append(f"  write {plan.sink.text()}")
    if plan.calls is not None:
        lines.append(f"  enqueue {plan.calls.text()}")
    return "\n".join(lines)
