"""Spark as a program that tests ask in SQL. The interpreter of ``.venv/peers/pyspark`` runs it, and nobody imports it.

A request is a line of JSON, an answer too; rows go through Parquet files. Spark runs here in two threads.

    {"do": "ask", "tables": {"name": "file"}, "zone": "UTC", "queries": ["SELECT …"], "to": "folder"}
    {"do": "start", "sources": {"name": {"folder": …, "schema": "k string, …", "time": "at", "late": "30 seconds"}},
     "queries": ["SELECT …"], "place": "folder"}
    {"do": "step", "to": "folder"}          all that is in the folders is read; what came out since the last step
    {"do": "stop"}

A streaming query appends to a sink in memory. Each file is a micro-batch.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.log.level": "ERROR",
    "spark.sql.session.timeZone": "UTC",
    # Jobs of some hundred rows: what costs time is to plan and to compile them.
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.streaming.metricsEnabled": "false",
    "spark.sql.streaming.stateStore.maintenanceInterval": "1h",
}


class Program:
    """A session, and the streaming queries that run in it."""

    def __init__(self, place: Path) -> None:
        from pyspark.sql import SparkSession

        os.environ["PYSPARK_PYTHON"] = sys.executable
        builder = SparkSession.builder.master("local[2]").config("spark.local.dir", str(place))
        builder = builder.config("spark.sql.warehouse.dir", str(place / "warehouse"))
        for name, value in SETTINGS.items():
            builder = builder.config(name, value)
        self.spark = builder.getOrCreate()
        self.running: list[Any] = []
        self.seen: list[int] = []
        self.started = 0

    def ask(self, request: dict[str, Any]) -> None:
        self.spark.conf.set("spark.sql.session.timeZone", request["zone"])
        for name, file in request["tables"].items():
            self.spark.read.parquet(file).createOrReplaceTempView(name)
        for number, query in enumerate(request["queries"]):
            self.save(self.spark.sql(query).toArrow(), request["to"], number)
        self.spark.conf.set("spark.sql.session.timeZone", "UTC")

    def start(self, request: dict[str, Any]) -> None:
        for name, source in request["sources"].items():
            rows = self.spark.readStream.schema(source["schema"]).option("maxFilesPerTrigger", 1)
            timed = rows.parquet(source["folder"]).withWatermark(source["time"], source["late"])
            timed.createOrReplaceTempView(name)
        for query in request["queries"]:
            self.started += 1
            name = f"out_{self.started}"
            writer = self.spark.sql(query).writeStream.format("memory").queryName(name)
            place = f"{request['place']}/{name}"
            self.running.append(writer.option("checkpointLocation", place).start())
            self.seen.append(0)

    def step(self, request: dict[str, Any]) -> None:
        for number, query in enumerate(self.running):
            query.processAllAvailable()
            rows = self.spark.table(query.name).toArrow()
            self.save(rows.slice(self.seen[number]), request["to"], number)
            self.seen[number] = rows.num_rows

    def stop(self, request: dict[str, Any]) -> None:
        running, self.running, self.seen = self.running, [], []
        for query in running:
            query.stop()
            self.spark.catalog.dropTempView(query.name)

    @staticmethod
    def save(rows: Any, folder: str, number: int) -> None:
        from pyarrow import parquet

        parquet.write_table(rows, f"{folder}/{number}.parquet")


def main() -> None:
    """Answer requests until there are no more."""
    # What the virtual machine prints goes where its log goes: answers have the output for themselves.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    program = Program(Path(sys.argv[1]))
    print('{"ready": true}', file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            getattr(program, request["do"])(request)
            answer = {"error": None}
        except Exception as error:  # noqa: BLE001  # it is raised again by who has asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    program.spark.stop()


if __name__ == "__main__":
    main()
