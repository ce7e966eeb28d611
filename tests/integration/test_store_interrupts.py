"""Ctrl-C in the middle of commits that other threads share: nothing is lost, nothing twice, nobody waits for ever."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import millstream as ms

THREADS = 4
EVENTS_EACH = 400
DEADLINE_S = 120


def main(path: str, seed: str) -> None:
    """Append from four threads, each of which interrupts the main thread now and then, which appends too."""
    app = ms.App("interrupted", store=path, durability="process")
    topic = app.topic("numbers", schema={"n": int})
    topic.append({"n": 0})
    acknowledged: list[int] = []
    interrupts = 0

    def append(thread: int) -> None:
        choice = random.Random(f"{seed} {thread}")
        for n in range(EVENTS_EACH):
            number = thread * 1_000_000 + n
            topic.append({"n": number})
            acknowledged.append(number)
            if choice.random() < 0.3:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    appending = False

    def interrupt(number: int, frame: object) -> None:
        # Ctrl-C outside an append says nothing of the store.
        if appending:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    threads = [threading.Thread(target=append, args=(k + 1,)) for k in range(THREADS)]
    for thread in threads:
        thread.start()
    n = 0
    while any(thread.is_alive() for thread in threads):
        n += 1
        try:
            appending = True
            topic.append({"n": n})
            appending = False
            acknowledged.append(n)
        except KeyboardInterrupt:
            appending = False
            interrupts += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    topic.append({"n": -1})
    stored = topic.to_table()["n"].to_pylist()
    app.close()
    assert interrupts, "no interrupt arrived in the middle of an append"
    assert not set(acknowledged) - set(stored), "acknowledged and lost"
    assert len(stored) == len(set(stored)), "stored twice"


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be sent to a thread here")
def test_interrupted_appends_lose_nothing_and_repeat_nothing(tmp_path: Path, seed: int):
    code = f"from tests.integration.test_store_interrupts import main; main({str(tmp_path / 's.mill')!r}, '{seed}')"
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert child.returncode == 0, child.stderr[-3000:]
