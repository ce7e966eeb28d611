"""What a worker process tells its supervisor through a pipe."""

from __future__ import annotations

import os

import pytest

from millstream.engines.local.worker_reports import Marked, Reporter


def test_what_must_be_known_before_a_task_is_written_when_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
):
    """The reporter's thread may never run again: a task can hold the interpreter's lock for ever."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    monkeypatch.setattr(Reporter, "_run", lambda self: None)  # a thread that does nothing
    reporter = Reporter(writing)
    reporter.tell(Marked("later"))
    reporter.tell_now(Marked("/run/running/7"))
    written = os.read(reading, 4096)
    assert b"/run/running/7" in written
    assert b"later" not in written
    os.close(reading)
    reporter.tell_now(
        Marked("nobody reads it")
    )  # the supervisor is gone, which the other pipe tells
    os.close(writing)
