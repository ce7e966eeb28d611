"""A schedule under a clock that jumps both ways, with and without workers, against a plain model of its policy."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.tasks.schedule_missed import ON_TIME_US, Missed
from millstream.testing import VirtualClock

SECOND_US = 1_000_000
moves = st.lists(
    st.tuples(
        st.sampled_from(["advance", "jump", "look", "look", "restart"]),
        st.integers(-4_000, 4_000),
    ),
    max_size=25,
)


@settings(max_examples=40)
@given(moves=moves, period_s=st.integers(1, 900), missed=st.sampled_from(list(Missed)))
def test_each_due_time_is_handled_once(
    moves: list[tuple[str, int]], period_s: int, missed: Missed
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = VirtualClock()
        app = _app(Path(folder), clock, period_s, missed)
        app.schedules.synchronise()
        anchor_us, period_us = clock.now_us(), period_s * SECOND_US
        handled = 0  # The number of the last due time that was run or passed over.
        expected: list[int] = []
        for move, seconds in moves:
            if move == "advance":
                clock.advance(timedelta(seconds=abs(seconds)))
            elif move == "jump":
                clock.jump(seconds * SECOND_US)
            elif move == "restart":
                app.close()
                app = _app(Path(folder), clock, period_s, missed)
                assert not app.schedules.synchronise()
            else:
                app.schedules_engine.run_due()
                reached = (clock.now_us() - anchor_us) // period_us
                if reached > handled:
                    dues = [anchor_us + n * period_us for n in range(handled + 1, reached + 1)]
                    late = dues[-1] + ON_TIME_US < clock.now_us()
                    expected += {
                        Missed.ALL: dues[-1000:],
                        Missed.LATEST: dues[-1:],
                        Missed.SKIP: [] if late else dues[-1:],
                    }[missed]
                    handled = reached
        for due_us in expected:
            assert app.tasks.result(f"tick:{due_us}").state == "queued"
        depth = app.tasks_engine.depth()
        assert sum(depth.values()) == len(expected)
        (status,) = app.schedules.list()
        assert status.runs == len(expected)
        assert status.runs + status.skipped == handled
        app.close()


def _app(folder: Path, clock: VirtualClock, period_s: int, missed: Missed) -> ms.App:
    app = ms.App("ticking", store=folder / "t.mill", durability="process", clock=clock)
    app.schedule("tick", app.task(name="tick")(_tick).s(), ms.every(f"{period_s}s"), missed=missed)
    return app


def _tick() -> None:
    """Nothing."""
