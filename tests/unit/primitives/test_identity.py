"""Ids: sorted by time, and never the same."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from millstream.primitives.identity import new_id

MANY = 2_000

_FORKS = """
import os
from millstream.primitives.identity import new_id

new_id()
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, " ".join(new_id()[14:] for _ in range(200)).encode())
    os._exit(0)
os.wait()
theirs = set(os.read(reading, 65536).decode().split())
ours = {new_id()[14:] for _ in range(200)}
print(len(theirs), len(ours), len(theirs & ours))
"""


def test_ids_differ_and_sort_by_their_time() -> None:
    ids = [new_id() for _ in range(MANY)]
    assert len({one[14:] for one in ids}) == MANY
    times = [one[:14] for one in ids]
    assert times == sorted(times)
    assert {len(one) for one in ids} == {30}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKS], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["200", "200", "0"]
