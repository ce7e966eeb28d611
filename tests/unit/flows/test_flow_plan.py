"""Plans as text, where event time is first known, and which changes a stream survives."""

from __future__ import annotations

import pyarrow as pa

from millstream.flows import aggregate as agg
from millstream.flows.branches import Anchor, branches
from millstream.flows.event_time import event_time_anchor
from millstream.flows.expression import col
from millstream.flows.fingerprint import difference, fingerprint
from millstream.flows.flow import Flow
from millstream.flows.windows import tumbling
from tests.unit.flows.plans import SCHEMA, clicks


def anchor_of(flow: Flow) -> Anchor | None:
    [branch] = branches(flow.plan)
    return event_time_anchor(branch)


def hourly(flow: Flow, on: str = "at") -> Flow:
    return flow.window(tumbling("1h"), on=on, late="30m").group_by("user").agg(n=agg.count())


def test_explain_shows_every_step_and_the_columns():
    flow = hourly(clicks().filter(col("price") > 0)).write("revenue")
    assert flow.explain().splitlines() == [
        "flow revenue",
        "  read  topic 'clicks'",
        "        -> user: string, price: double, n: int64, at: timestamp[us, tz=UTC]",
        "  1     filter((col('price') > 0))",
        "  2     window(tumbling(1h), on=at, late=30m).group_by(user).agg(n=count())",
        "        -> window_start: timestamp[us, tz=UTC], window_end: timestamp[us, tz=UTC], "
        "user: string, n: int64",
        "  write topic 'revenue'",
    ]


def test_event_time_is_known_at_the_source():
    anchor = anchor_of(hourly(clicks().filter(col("n") > 1)))
    assert anchor is not None
    assert (anchor.steps, repr(anchor.time)) == (0, "col('at')")


def test_a_computed_event_time_is_traced_to_the_source():
    flow = clicks().with_columns(local=col("at") - col("at")).with_columns(when=col("at"))
    flow = flow.select("user", event=col("when").dt.truncate("1s"))
    anchor = anchor_of(hourly(flow, on="event"))
    assert anchor is not None
    assert (anchor.steps, repr(anchor.time)) == (0, "col('at').truncate(1000000)")


def test_event_time_of_a_function_is_known_behind_it():
    flow = clicks().filter(col("n") > 1).map_batches(lambda batches: batches, SCHEMA)
    anchor = anchor_of(hourly(flow))
    assert anchor is not None
    assert anchor.steps == 2


def test_event_time_of_a_table_is_known_behind_the_join():
    table = pa.table({"user": ["a"], "seen": pa.array([0], pa.timestamp("us", "UTC"))})
    joined = clicks().join(table, on="user")
    behind = anchor_of(hourly(joined, on="seen"))
    before = anchor_of(hourly(joined))
    assert behind is not None
    assert before is not None
    assert (behind.steps, before.steps) == (1, 0)


def test_a_flow_without_a_window_has_no_event_time():
    assert anchor_of(clicks().agg(n=agg.count())) is None


def test_a_change_before_the_aggregation_is_a_difference():
    before = fingerprint(hourly(clicks().filter(col("n") > 1)).plan)
    now = fingerprint(hourly(clicks().filter(col("n") > 2)).plan)
    assert difference(before, now) == (
        "step 1 was filter((col('n') > 1)) and is now filter((col('n') > 2))"
    )
    gone = fingerprint(hourly(clicks()).plan)
    assert difference(gone, before) is not None
    assert difference(before, before) is None


def test_a_change_behind_the_aggregation_is_none():
    before = fingerprint(hourly(clicks()).plan)
    now = fingerprint(hourly(clicks()).filter(col("n") > 2).write("elsewhere").plan)
    assert difference(before, now) is None


def test_a_flow_without_state_depends_on_its_source_alone():
    before = fingerprint(clicks().filter(col("n") > 1).plan)
    assert difference(before, fingerprint(clicks().select("n").plan)) is None
