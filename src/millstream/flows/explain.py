"""A plan as text for people."""

from __future__ import annotations

import pyarrow as pa

from millstream.flows.merging import JoinSource, UnionSource
from millstream.flows.plan import Plan
from millstream.primitives.schema import describe


def explain(plan: Plan, *, name: str) -> str:
    """Return one line for each source, each step and the sink, with the columns where they change."""
    lines = [f"flow {name}", *_explained(plan, "  ")]
    if plan.sink is not None:
        lines.append(f"  write {plan.sink.text()}")
    if plan.calls is not None:
        lines.append(f"  enqueue {plan.calls.text()}")
    return "\n".join(lines)


def _explained(plan: Plan, indent: str) -> list[str]:
    lines = []
    match plan.source:
        case UnionSource(plans=plans):
            for part in plans:
                lines += [f"{indent}of", *_explained(part, f"{indent}  ")]
            lines.append(f"{indent}union")
        case JoinSource(left=left, right=right) as join:
            lines += [f"{indent}left", *_explained(left, f"{indent}  ")]
            lines += [f"{indent}right", *_explained(right, f"{indent}  ")]
            lines.append(f"{indent}{join.summary()}")
        case source:
            lines.append(f"{indent}read  {source.text()}")
    shown: pa.Schema | None = None
    for number, schema in enumerate(plan.schemas()):
        if number:
            lines.append(f"{indent}{number:<4}  {plan.steps[number - 1].text()}")
        if shown is None or not schema.equals(shown):
            lines.append(f"{indent}      -> {describe(schema)}")
            shown = schema
    return lines
