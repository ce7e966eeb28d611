"""PySpark as a judge: a program that is asked in SQL, ``tests/integration/spark_program.py``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.architecture.tree import ROOT

PYTHON = ROOT / ".venv" / "peers" / "pyspark" / "bin" / "python"
PROGRAM = ROOT / "tests" / "integration" / "spark_program.py"


class Refused(Exception):
    """Spark cannot do what it was asked; it goes on."""


@dataclass
class Source:
    """A folder of files that Spark reads as a stream: ``schema`` in its words, and how long its watermark waits."""

    folder: Path
    schema: str
    time: str
    late: str
    files: int = 0

    def append(self, rows: pa.Table) -> None:
        """Add a file, which appears whole."""
        hidden = self.folder / f".{self.files}"
        parquet.write_table(rows, hidden)
        hidden.rename(self.folder / f"{self.files:04}.parquet")
        self.files += 1


@dataclass
class Spark:
    """A running session. Answers are tables, one for each query."""

    process: subprocess.Popen[str]
    place: Path
    log: Path
    asked: int = 0
    count: int = field(default=0, init=False)

    def ask(
        self, queries: Sequence[str], tables: Mapping[str, pa.Table], *, zone: str = "UTC"
    ) -> list[pa.Table]:
        """Run queries over tables, as a batch."""
        folder = self.folder()
        files = {name: str(folder / f"{name}.in") for name in tables}
        for name, rows in tables.items():
            parquet.write_table(rows, files[name])
        request = {"do": "ask", "tables": files, "zone": zone, "queries": list(queries)}
        return self.answers(request, len(queries), folder)

    @contextmanager
    def stream(
        self, queries: Sequence[str], schemas: Mapping[str, tuple[str, str]], *, late: str
    ) -> Iterator[dict[str, Source]]:
        """Start queries over folders, in which rows can be put until the block ends.

        ``schemas`` are in Spark's words, each with the column of its event time.
        """
        sources = {
            name: Source(self.folder(), ddl, time, late) for name, (ddl, time) in schemas.items()
        }
        told = {
            name: {**vars(source), "folder": str(source.folder)} for name, source in sources.items()
        }
        self.count = len(queries)
        place = str(self.folder())
        self.request({"do": "start", "sources": told, "queries": list(queries), "place": place})
        try:
            yield sources
        finally:
            self.request({"do": "stop"})

    def step(self) -> list[pa.Table]:
        """Let the queries read all there is, and return what each has given since the last step."""
        return self.answers({"do": "step"}, self.count, self.folder())

    def answers(self, request: dict[str, Any], count: int, folder: Path) -> list[pa.Table]:
        self.request({**request, "to": str(folder)})
        return [parquet.read_table(folder / f"{number}.parquet") for number in range(count)]

    def folder(self) -> Path:
        self.asked += 1
        folder = self.place / str(self.asked)
        folder.mkdir()
        return folder

    def request(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            self.answer()
        except BaseException as error:
            if not isinstance(error, Refused):  # what is asked next must not get the answer to this
                self.process.kill()
            raise

    def answer(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"Spark has ended:\n{self.log.read_text()[-4000:]}")
        error = json.loads(line).get("error")
        if error is not None:
            raise Refused(error)


@contextmanager
def session() -> Iterator[Spark]:
    """Start Spark, until the block ends. Skips where it is not installed."""
    if not PYTHON.exists():
        pytest.skip("there is no PySpark here: make .venv/peers/pyspark/.installed")
    if "JAVA_HOME" not in os.environ and shutil.which("java") is None:
        pytest.skip("there is no Java here (on Debian: apt-get install openjdk-17-jre-headless)")
    with tempfile.TemporaryDirectory(prefix="millstream-spark-") as name:
        place = Path(name)
        log = place / "log"
        with log.open("w") as told:
            process = subprocess.Popen(
                [PYTHON, "-I", PROGRAM, place / "scratch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=told,
                text=True,
                cwd=place,
            )
        spark = Spark(process, place, log)
        try:
            spark.answer()
            yield spark
        finally:
            process.communicate()  # it ends at the end of its input
