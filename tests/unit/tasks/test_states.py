"""The table of states."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.primitives.errors import TaskError
from millstream.tasks.states import FINAL, TRANSITIONS, TaskEvent, TaskState, follow, table


def test_a_row_is_followed() -> None:
    assert follow(TaskState.QUEUED, TaskEvent.CLAIM) is TaskState.RUNNING


def test_what_has_no_row_is_refused_with_what_could_follow() -> None:
    with pytest.raises(TaskError) as caught:
        follow(TaskState.SCHEDULED, TaskEvent.SUCCEED)
    assert caught.value.expected == "due, expire, revoke"


def test_each_event_leads_to_one_state() -> None:
    assert len({(row.before, row.event) for row in TRANSITIONS}) == len(TRANSITIONS)


def test_every_state_is_reached_and_what_has_ended_comes_back_only_when_asked_for() -> None:
    assert {row.after for row in TRANSITIONS} == set(TaskState)
    assert {row.before for row in TRANSITIONS} == {None, *TaskState} - {TaskState.SUCCEEDED}
    assert {row.event for row in TRANSITIONS if row.before in FINAL} == {TaskEvent.REQUEUE}
    assert all(state.is_final == (state in FINAL) for state in TaskState)


def test_every_event_is_used() -> None:
    assert {row.event for row in TRANSITIONS} == set(TaskEvent)


def test_the_table_prints_a_row_a_line() -> None:
    lines = table().splitlines()
    assert len(lines) == len(TRANSITIONS) + 1
    assert lines[0].split() == ["state", "event", "next", "state", "because"]
    assert "queued     claim      running     a worker took it" in lines


def test_the_page_shows_the_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "concepts" / "tasks.md"
    assert table() in page.read_text("utf-8")
