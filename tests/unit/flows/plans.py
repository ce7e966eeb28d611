"""Flows over a plan alone: engines that must not be called."""

from __future__ import annotations

from typing import cast

import pyarrow as pa

from millstream.flows.contract import BatchEngine, FlowEngines, StreamEngine
from millstream.flows.flow import Flow
from millstream.flows.plan import Plan
from millstream.flows.source import TopicSource
from millstream.primitives.schema import TIMESTAMP

SCHEMA = pa.schema(
    [
        pa.field("user", pa.string()),
        pa.field("price", pa.float64()),
        pa.field("n", pa.int64()),
        pa.field("at", TIMESTAMP),
    ]
)


def clicks(schema: pa.Schema = SCHEMA) -> Flow:
    engines = FlowEngines(cast("BatchEngine", None), cast("StreamEngine", None))
    return Flow(Plan(TopicSource("clicks", schema, schema)), engines)
