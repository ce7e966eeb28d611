"""The drawing of a plan: well-formed SVG with every part of the plan once, and no box over another."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream.flows.flow import Flow
from millstream.flows.plan import Plan
from millstream.flows.plot import LINE_CHARACTERS_MAX, plot
from millstream.flows.source import TopicSource

SCHEMA = {"user": str, "price": float, "at": ms.Timestamp}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def app(store_path: Path) -> ms.App:
    return ms.App("shop", store=str(store_path))


def clicks(app: ms.App, name: str = "clicks") -> Flow:
    topic = app.topic(name, schema=SCHEMA)
    return app.read(topic)


def boxes(svg: str) -> list[tuple[str, str]]:
    """Return the title and the detail of each box, from the top."""
    groups = ET.fromstring(svg).findall(f"{SVG}g")
    texts = [[text.text or "" for text in group.findall(f"{SVG}text")] for group in groups]
    return [(title, detail) for title, detail in texts]


def rectangles(svg: str) -> list[tuple[float, float, float, float]]:
    found = ET.fromstring(svg).findall(f"{SVG}g/{SVG}rect")
    return [tuple(float(r.attrib[a]) for a in ("x", "y", "width", "height")) for r in found]  # type: ignore[misc]


def test_a_chain_is_drawn_in_its_order(app: ms.App) -> None:
    flow = (
        clicks(app)
        .filter(ms.col("price") > 0)
        .window(ms.tumbling("1m"), on="at", late="5s")
        .group_by("user")
        .agg(hits=ms.count())
        .write("hits")
    )
    assert boxes(flow.plot().svg)[1:] == [
        ("1  filter", "(col('price') > 0)"),
        ("2  window", "tumbling(1m), on=at, late=5s"),
        ("2  aggregate", "group_by(user).agg(hits=count())"),
        ("write", "topic 'hits'"),
    ]
    assert boxes(flow.plot().svg)[0][0] == "read topic 'clicks'"


def test_sides_of_a_join_and_of_a_union_stand_beside_each_other(app: ms.App) -> None:
    other = clicks(app, "views").select("user", cost=ms.col("price"), seen=ms.col("at"))
    joined = clicks(app).join_interval(
        other, on="user", within=("-5m", "1h"), time=("at", "seen"), late="1s"
    )
    both = clicks(app, "a").union(clicks(app, "b"), clicks(app, "c"))
    assert [title for title, _ in boxes(joined.plot().svg)] == [
        "read topic 'clicks'",
        "read topic 'views'",
        "1  select",
        "join_interval",
    ]
    assert len(boxes(both.plot().svg)) == 4
    for flow in (joined, both):
        apart = rectangles(flow.plot().svg)
        for a, b in itertools.combinations(apart, 2):
            assert a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] != b[1]
        width = float(ET.fromstring(flow.plot().svg).attrib["width"])
        assert all(x >= 0 and x + w <= width for x, _, w, _ in apart)


def test_a_long_expression_is_cut_and_is_whole_in_the_title(app: ms.App) -> None:
    condition = ms.col("user") != "x" * 200
    svg = clicks(app).filter(condition).plot().svg
    _, detail = boxes(svg)[1]
    assert len(detail) == LINE_CHARACTERS_MAX
    assert detail.endswith("…")
    titles = [title.text or "" for title in ET.fromstring(svg).iter(f"{SVG}title")]
    assert any("x" * 200 in title for title in titles)


def test_wide_letters_are_cut_sooner(app: ms.App) -> None:
    _, detail = boxes(clicks(app).filter(ms.col("user") == "界" * 40).plot().svg)[1]
    assert detail.endswith("…")
    assert LINE_CHARACTERS_MAX - 1 <= len(detail) + detail.count("界") <= LINE_CHARACTERS_MAX


@given(name=st.text(), topic=st.text(min_size=1))
def test_any_text_gives_well_formed_svg(name: str, topic: str) -> None:
    schema = pa.schema([("n", pa.int64())])
    svg = plot(Plan(TopicSource(topic, schema, schema)), name=name).svg
    assert len(boxes(svg)) == 1
    svg.encode()


def test_it_is_saved_and_shown_in_a_notebook(app: ms.App, tmp_path: Path) -> None:
    flow = clicks(app).filter(ms.col("user") == "Zoë <&>")
    path = flow.plot().save(tmp_path / "flow.svg")
    assert path.read_text(encoding="utf-8") == flow.plot().svg == flow.plot()._repr_svg_()
    shown = flow._repr_mimebundle_()
    assert shown == {"image/svg+xml": flow.plot().svg, "text/plain": flow.explain()}
    assert boxes(flow.plot().svg)[1][1] == "(col('user') == 'Zoë <&>')"


def test_the_figures_of_a_run_are_in_the_boxes(app: ms.App) -> None:
    flow = clicks(app).filter(ms.col("price") > 0)
    both = flow.select("user", "at").union(clicks(app, "old").select("user", "at"))
    joined = both.join(flow.select("user", "price"), on="user").write("out")
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    app.topic("clicks", schema=SCHEMA).append(
        [{"user": "a", "price": p, "at": noon} for p in (0.0, 1.0, 2.0)]
    )
    report = joined.run()
    drawn = joined.plot(report.steps)
    counted = [
        [text.text or "" for text in group.findall(f"{SVG}text")]
        for group in ET.fromstring(drawn.svg).findall(f"{SVG}g")
    ]
    assert {len(texts) for texts in counted} == {2, 3}
    counts = {texts[0]: texts[2].split(",")[:2] for texts in counted if len(texts) > 2}
    assert counts["1  filter"] == ["3 in", " 2 out (66.7%)"]
    assert counts["join"] == ["4 in", " 4 out (100.0%)"]
    tops = sorted({top for _, top, _, _ in rectangles(drawn.svg)})
    assert all(below - above >= 66 for above, below in itertools.pairwise(tops))
    with pytest.raises(ms.errors.ConfigurationError, match="of other steps"):
        flow.plot(report.steps)
