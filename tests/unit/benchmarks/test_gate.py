"""The gate that all worker processes stand at, and what the tasks do behind it."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path

import pytest

from benchmarks.tasks import work
from benchmarks.tasks.work import GATE_VARIABLE, Gate


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    path = tmp_path / "gate"
    monkeypatch.setenv(GATE_VARIABLE, str(path))
    monkeypatch.setattr(work, "_gate", None)
    return Gate(path)


def test_an_open_gate_keeps_nobody(gate: Gate):
    assert not gate.is_closed
    assert work.no_op(1, 2) == 3
    assert gate.arrived() == 0


def come(path: Path) -> None:
    Gate(path).wait()


def test_a_closed_gate_keeps_all_processes_and_counts_them(gate: Gate, tmp_path: Path):
    gate.close()
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=come, args=(tmp_path / "gate",)) for _ in range(2)]
    for other in others:
        other.start()
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (work.no_op(1, 2), work.no_op(1, 2), ended.set()))
    thread.start()
    look = threading.Event()
    while gate.arrived() < 3:
        look.wait(0.005)
    assert not ended.is_set()
    assert all(other.is_alive() for other in others)

    gate.open()
    thread.join()
    for other in others:
        other.join()
        assert other.exitcode == 0
    assert ended.is_set()
    assert gate.arrived() == 3

    gate.close()
    assert gate.arrived() == 0


def close(path: Path) -> None:
    Gate(path).close()


def test_a_gate_whose_owner_has_died_keeps_nobody(gate: Gate, tmp_path: Path):
    owner = multiprocessing.get_context("spawn").Process(target=close, args=(tmp_path / "gate",))
    owner.start()
    owner.join()
    assert gate.is_closed
    assert work.no_op(1, 2) == 3


def test_threads_of_a_process_are_one_arrival(gate: Gate):
    gate.close()
    threads = [threading.Thread(target=work.no_op, args=(1, 2)) for _ in range(2)]
    for thread in threads:
        thread.start()
    look = threading.Event()
    while not gate.arrived():
        look.wait(0.005)
    gate.open()
    for thread in threads:
        thread.join()
    assert gate.arrived() == 1


def test_a_spin_takes_time_of_the_processor(gate: Gate):
    before = time.thread_time()
    assert work.spin(5.0) == 5.0
    assert 0.005 <= time.thread_time() - before
