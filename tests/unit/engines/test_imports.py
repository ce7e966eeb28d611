"""What a worker of tasks does not import: it starts often, and in many processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from random import Random
import millstream as ms
import millstream.cli.worker
from millstream.engines.local.worker import Worker, WorkerSettings

app = ms.App("small", store=sys.argv[1], durability="process")

@app.task
def add(a: int, b: int) -> int:
    return a + b

result = add.delay(1, 2)
Worker(app.tasks_engine, app.tasks, WorkerSettings(burst=True), chance=Random(1)).run()
assert result.get(timeout=10) == 3
app.close()
print(*sorted({"polars", "pyarrow.compute", "pandas"} & set(sys.modules)))
"""


def test_a_worker_of_tasks_imports_nothing_that_only_flows_need(store_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(store_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.split() == []
