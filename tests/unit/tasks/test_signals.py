"""Receivers: who is called, in which order, and what their errors do."""

from __future__ import annotations

import gc
import logging

import pytest

import millstream as ms
from millstream.primitives.errors import ConfigurationError
from millstream.tasks.signals import Signals, WorkerProcess

EVENT = WorkerProcess(node="n", pool="process", queues=("default",))


def test_receivers_are_called_in_their_order_once() -> None:
    signals, called = Signals(), []
    signals.worker_ready.connect(lambda _: called.append("first"))
    second = signals.worker_ready.connect(lambda _: called.append("second"))
    assert signals.worker_ready.connect(second) is second
    gc.collect()  # Nobody else holds them.
    signals.worker_ready.send(EVENT)
    assert called == ["first", "second"]
    assert signals.worker_ready.disconnect(second)
    assert not signals.worker_ready.disconnect(second)
    signals.worker_ready.send(EVENT)
    assert called == ["first", "second", "first"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_an_error_is_reported_and_goes_no_further(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    signals, called = Signals(), []

    @signals.worker_ready.connect
    def broken(_event: WorkerProcess) -> None:
        raise error

    signals.worker_ready.connect(called.append)
    with caplog.at_level(logging.ERROR):
        signals.worker_ready.send(EVENT)
    assert called == [EVENT]
    (record,) = caplog.records
    assert record.name == "millstream.signals"
    assert "worker_ready" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ms.errors.SoftTimeLimitExceeded])
def test_what_is_not_meant_for_the_receiver_is_not_held_back(error: type[BaseException]) -> None:
    signals = Signals()

    @signals.worker_ready.connect
    def interrupted(_event: WorkerProcess) -> None:
        raise error

    with pytest.raises(error):
        signals.worker_ready.send(EVENT)


def test_an_async_receiver_is_refused() -> None:
    async def receive(_event: WorkerProcess) -> None: ...

    with pytest.raises(ConfigurationError, match="async"):
        Signals().worker_ready.connect(receive)


def test_attempts_are_heard_while_somebody_listens() -> None:
    signals = Signals()
    assert not signals.hears_attempts
    signals.worker_ready.connect(print)
    signals.before_task_publish.connect(print)
    assert not signals.hears_attempts
    signals.task_retry.connect(print)
    assert signals.hears_attempts
    signals.task_retry.disconnect(print)
    assert not signals.hears_attempts


def test_they_are_reached_from_the_app() -> None:
    app = ms.App("shop")
    assert app.signals is app.tasks.signals
    assert ms.signals.Signals is Signals
