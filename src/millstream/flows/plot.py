"""A plan as a drawing: a box for each source, step and sink, from top to bottom, as SVG.

[read clicks]   [read views]      a plan is a tree whose root is the sink: each subtree takes the width it needs,
       \\         /               and a box stands in the middle above or below what it is joined with
      [join_interval]
             |
          [write]
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import pyarrow as pa

from millstream.flows.figures import SIDES, StepFigures, step_figures
from millstream.flows.keyed import Process
from millstream.flows.learning import Fit
from millstream.flows.merging import JoinSource, UnionSource
from millstream.flows.plan import Aggregation, Plan
from millstream.flows.steps import Step
from millstream.primitives.duration import format_duration
from millstream.primitives.errors import ConfigurationError
from millstream.primitives.schema import describe

LINE_CHARACTERS_MAX: Final = 50
"""So many letters of one place each have room.

A longer line of a box is cut; the whole of it is in the box's title, which browsers show under the pointer.
"""

_WIDTH: Final = 370
_HEIGHT: Final = 50
_HEIGHT_COUNTED: Final = 66
_GAP: Final = 28
_MARGIN: Final = 16
_PADDING: Final = 10

_Place = tuple[str, int]
"""The part of a plan, and the number of a step in it."""

_COLORS: Final = {
    "source": ("#e6f1fb", "#2b6ca3"),
    "step": ("#f6f6f4", "#7a7a75"),
    "state": ("#fdf1dd", "#b5771a"),
    "sink": ("#e7f5ea", "#2f8048"),
}


@dataclass(frozen=True)
class _Box:
    """What is drawn of one part of a plan, and of what it gets its rows."""

    kind: str
    title: str
    detail: str
    below: tuple[_Box, ...] = ()
    counts: str = ""
    """What a run has counted of it."""

    @property
    def depth(self) -> int:
        """How many boxes lie one behind the other, from the farthest source to this."""
        return 1 + max((box.depth for box in self.below), default=0)

    @property
    def width(self) -> int:
        """How wide it is with all that is before it."""
        inner = sum(box.width for box in self.below) + _GAP * max(len(self.below) - 1, 0)
        return max(_WIDTH, inner)


@dataclass(frozen=True)
class FlowPlot:
    """A drawing of a flow. A notebook shows it; ``svg`` is its text, which needs no other file."""

    svg: str

    def save(self, path: str | Path) -> Path:
        """Write the SVG as UTF-8 to a file, replacing one that is there; return its path. Raises OSError."""
        target = Path(path)
        target.write_text(self.svg, encoding="utf-8")
        return target

    def _repr_svg_(self) -> str:
        return self.svg


def plot(plan: Plan, *, name: str, steps: Sequence[StepFigures] = ()) -> FlowPlot:
    """Return the drawing of a plan: sources at the top, the sink at the bottom, what keeps state in a colour.

    With the figures of a run each step shows its own. Raises ConfigurationError for those of another plan.
    """
    root = _ended(plan, _counts(plan, steps, name))
    box_height = _HEIGHT_COUNTED if steps else _HEIGHT
    width = root.width + 2 * _MARGIN
    height = root.depth * (box_height + _GAP) - _GAP + 2 * _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="monospace" role="img">',
        f"<title>{_escaped(f'flow {name}')}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_drawn(root, _MARGIN, root.depth - 1, box_height),
        "</svg>",
    ]
    return FlowPlot("\n".join(lines))


def _counts(plan: Plan, steps: Sequence[StepFigures], name: str) -> dict[_Place, str]:
    """Return what each box shows of a run."""
    if not steps:
        return {}
    own = step_figures(plan, {})
    if [(step.part, step.number, step.text) for step in own] != [
        (step.part, step.number, step.text) for step in steps
    ]:
        raise ConfigurationError(
            "the figures are of other steps than the flow has",
            where=f"flow {name!r}, plot()",
            expected="the steps of a report or of figures() of this flow",
            next_step="run the flow again, or leave the figures out",
        )
    return {(step.part, step.number): _counted(step) for step in steps}


def _counted(step: StepFigures) -> str:
    time = "" if step.time_us is None else f", {format_duration(step.time_us)}"
    kept = "" if step.selectivity is None else f" ({step.selectivity:.1%})"
    return f"{step.rows_in:,} in, {step.rows_out:,} out{kept}{time}"


def _ended(plan: Plan, counts: Mapping[_Place, str]) -> _Box:
    box = _boxes(plan, counts, ())
    for verb, sink in (("write", plan.sink), ("enqueue", plan.calls)):
        if sink is not None:
            box = _Box("sink", verb, sink.text(), (box,))
    return box


def _boxes(plan: Plan, counts: Mapping[_Place, str], path: tuple[str, ...]) -> _Box:
    """Return the box of the last step, with all before it."""
    schemas = plan.schemas()
    match plan.source:
        case UnionSource(plans=plans):
            parts = [_boxes(p, counts, (*path, f"of {n}")) for n, p in enumerate(plans, start=1)]
            box = _Box("step", "union", _columns(schemas[0]), tuple(parts))
        case JoinSource(left=left, right=right) as join:
            detail = join.summary().removeprefix(join.name)[1:-1]
            sides = [
                _boxes(side, counts, (*path, of_side))
                for side, of_side in zip((left, right), SIDES, strict=True)
            ]
            counted = counts.get((", ".join(path), 0), "")
            box = _Box("state", join.name, detail, tuple(sides), counted)
        case source:
            box = _Box("source", f"read {source.text()}", _columns(schemas[0]))
    for number, step in enumerate(plan.steps, start=1):
        box = replace(_step(number, step, box), counts=counts.get((", ".join(path), number), ""))
    return box


def _step(number: int, step: Step, before: _Box) -> _Box:
    if isinstance(step, Aggregation):
        if step.window is not None:
            box = _Box("state", f"{number}  window", _inner(step.window.text()), (before,))
            grouping = step.text().removeprefix(f"{step.window.text()}.")
            return _Box("state", _verb(number, step), grouping, (box,))
        return _Box("state", _verb(number, step), step.text(), (before,))
    kind = "state" if isinstance(step, Process | Fit) else "step"
    text = step.text()
    detail = _inner(text) if text.startswith(f"{step.name}(") else text
    return _Box(kind, f"{number}  {step.name}", detail, (before,))


def _verb(number: int, step: Aggregation) -> str:
    return f"{number}  {'aggregate' if step.aggregates else 'distinct'}"


def _inner(text: str) -> str:
    """Return what stands in the brackets of a call."""
    return text.partition("(")[2].removesuffix(")")


def _columns(schema: pa.Schema) -> str:
    return describe(schema)


def _drawn(box: _Box, left: float, row: int, height: int) -> Iterator[str]:
    """Yield the lines of a box in a row, below all that is before it; its subtree begins at ``left``."""
    middle = left + box.width / 2
    top = _MARGIN + row * (height + _GAP)
    inner = sum(part.width for part in box.below) + _GAP * max(len(box.below) - 1, 0)
    at = left + (box.width - inner) / 2
    for part in box.below:
        yield from _drawn(part, at, row - 1, height)
        yield from _edge(at + part.width / 2, top - _GAP, middle, top)
        at += part.width + _GAP
    fill, stroke = _COLORS[box.kind]
    x = middle - _WIDTH / 2
    yield "<g>"
    yield f"<title>{_escaped(f'{box.title}: {box.detail}')}</title>"
    yield (
        f'<rect x="{x:g}" y="{top}" width="{_WIDTH}" height="{height}" rx="6" '
        f'fill="{fill}" stroke="{stroke}"/>'
    )
    yield (
        f'<text x="{x + _PADDING:g}" y="{top + 20}" font-size="13" font-weight="bold" '
        f'fill="#222222">{_escaped(_short(box.title, LINE_CHARACTERS_MAX - 6))}</text>'
    )
    yield (
        f'<text x="{x + _PADDING:g}" y="{top + 38}" font-size="11" fill="#444444">'
        f"{_escaped(_short(box.detail, LINE_CHARACTERS_MAX))}</text>"
    )
    if box.counts:
        yield (
            f'<text x="{x + _PADDING:g}" y="{top + 54}" font-size="11" fill="#222222">'
            f"{_escaped(_short(box.counts, LINE_CHARACTERS_MAX))}</text>"
        )
    yield "</g>"


def _edge(x: float, y: float, to_x: float, to_y: float) -> Iterator[str]:
    half = (y + to_y) / 2
    yield (
        f'<path d="M {x:g} {y:g} C {x:g} {half:g} {to_x:g} {half:g} {to_x:g} {to_y - 6:g}" '
        f'fill="none" stroke="#7a7a75"/>'
    )
    yield f'<path d="M {to_x - 4:g} {to_y - 7:g} h 8 L {to_x:g} {to_y:g} z" fill="#7a7a75"/>'


def _short(text: str, characters_max: int) -> str:
    """Return text that takes so many places at most, in a font whose letters are equally wide."""
    if sum(map(_places, text)) <= characters_max:
        return text
    kept, places = 0, 0
    while places + _places(text[kept]) < characters_max:
        places += _places(text[kept])
        kept += 1
    return f"{text[:kept]}…"


def _places(character: str) -> int:
    """Return how wide a character is: those of East Asia, and pictures, take two places."""
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _escaped(text: str) -> str:
    """Return text as XML may hold it: what it cannot hold, such as control characters, is shown as a question mark."""
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    return escape(shown)
