"""What a benchmark prints: a table for people and, last, one line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from benchmarks.harness import OWN, Figure, Samples

_NAME_WIDTH_MIN = 16
_DIGITS = 6


def as_json(bench: str, machine: str, figures: Sequence[Figure], notes: Sequence[str]) -> str:
    """Return the whole result as one line."""
    document = {
        "bench": bench,
        "machine": machine,
        "figures": [_figure(figure) for figure in figures],
        "notes": list(notes),
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


def _figure(figure: Figure) -> dict[str, Any]:
    limits = figure.samples.range
    return {
        "name": figure.name,
        "value": _rounded(figure.samples.median),
        "unit": figure.unit,
        "range": None if limits is None else [_rounded(limit) for limit in limits],
        "durability": figure.durability,
        "target": figure.target,
        "better": figure.better,
        "met": figure.met,
        "peers": {name: _rounded(samples.median) for name, samples in figure.peers.items()},
        "notes": figure.all_notes(),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def print_table(bench: str, machine: str, figures: Sequence[Figure], notes: Sequence[str]) -> None:
    """Print every figure with its peers below it, and what has to be known to read them."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nBenchmark {bench} on {machine}\n", markup=False)
    for figure in figures:
        for line in _lines(figure):
            console.print(line)
        console.print()
    for note in notes:
        console.print(note, markup=False)
    console.print()


def _lines(figure: Figure) -> list[Text]:
    durability = f", durability={figure.durability}" if figure.durability else ""
    head = Text(figure.name, style="bold").append(f"  ({figure.unit}{durability})", style="dim")
    width = max(_NAME_WIDTH_MIN, *(len(name) + 2 for name in (OWN, *figure.peers)))
    rows = [_row(OWN, width, figure.samples, _verdict(figure))]
    rows += [
        _row(name, width, samples, Text(_comparison(figure, samples)))
        for name, samples in figure.peers.items()
    ]
    return [head, *rows, *(Text(f"  note: {note}", style="dim") for note in figure.all_notes())]


def _row(name: str, width: int, samples: Samples, remark: Text) -> Text:
    value, limits = samples.median, samples.range
    median = "-" if value is None else readable(value)
    spread = "" if limits is None else f"{readable(limits[0])} to {readable(limits[1])}"
    row = Text(f"  {name:<{width}}{median:>10}   {spread:<22}").append(remark)
    row.rstrip()
    return row


def _verdict(figure: Figure) -> Text:
    if figure.target is None:
        return Text("")
    sign = "at least" if figure.better == "higher" else "at most"
    word, style = ("met", "green") if figure.met else ("MISSED", "red")
    return Text(f"{word}: the target is {sign} {readable(figure.target)}", style=style)


def _comparison(figure: Figure, peer: Samples) -> str:
    ours, theirs = figure.samples.median, peer.median
    if theirs is None:
        return "did not run, see the note"
    if not ours or not theirs:
        return ""
    factor = ours / theirs if figure.better == "higher" else theirs / ours
    if factor >= 1:
        return f"{OWN} is {readable(factor)} times better"
    return f"{OWN} is {readable(1 / factor)} times worse"


def readable(value: float) -> str:
    """Return a number as people read it: 5.12 M, 41.0 k, 0.21."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
