"""Tasks, an event log, streams and batch jobs in one directory, without a server.

    import millstream as ms
    app = ms.App("shop")

Everything a user needs is here; the folders below are for those who read or extend it.
"""

from millstream.app import App
from millstream.flows.aggregate import (
    Aggregate,
    aggregator,
    approx_n_unique,
    approx_quantile,
    arg_max,
    arg_min,
    collect,
    count,
    first,
    last,
    max,
    mean,
    median,
    min,
    n_unique,
    quantile,
    std,
    sum,
    top_k,
    var,
)
from millstream.flows.emission import early
from millstream.flows.expression import Expression, col, lit, when
from millstream.flows.flow import Flow
from millstream.flows.keyed_context import KeyedContext
from millstream.flows.lakes import delta, iceberg
from millstream.flows.learning import Model
from millstream.flows.report import Progress, RunReport
from millstream.flows.sequence import Sequencer, sequence_frames
from millstream.flows.sequence_options import SequenceOptions, audio_video, ledger
from millstream.flows.sql import sql, sql_table
from millstream.flows.trigger_conditions import after, arrival, gathered
from millstream.flows.webhook import webhook
from millstream.flows.windows import calendar, count_window, hopping, session, sliding, tumbling
from millstream.log.contract import PartitionLag
from millstream.log.events import Appended, EventBatch
from millstream.log.topic import Topic
from millstream.primitives import errors
from millstream.primitives.backoff import Backoff
from millstream.primitives.durability import Durability
from millstream.primitives.errors import MillstreamError
from millstream.primitives.histogram import Histogram
from millstream.primitives.schedule_times import cron, every
from millstream.primitives.schema import Timestamp
from millstream.tasks import signals
from millstream.tasks.batch import Batch
from millstream.tasks.bound import BoundBatch, BoundTask
from millstream.tasks.dependencies import Depends
from millstream.tasks.result import AsyncResult
from millstream.tasks.signature import Signature
from millstream.tasks.states import TaskState
from millstream.tasks.task import Task
from millstream.tasks.unique import Unique
from millstream.tasks.workflow import GroupResult, chain, chord, chunks, group, starmap

__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "App",
    "Appended",
    "AsyncResult",
    "Backoff",
    "Batch",
    "BoundBatch",
    "BoundTask",
    "Depends",
    "Durability",
    "EventBatch",
    "Expression",
    "Flow",
    "GroupResult",
    "Histogram",
    "KeyedContext",
    "MillstreamError",
    "Model",
    "PartitionLag",
    "Progress",
    "RunReport",
    "SequenceOptions",
    "Sequencer",
    "Signature",
    "Task",
    "TaskState",
    "Timestamp",
    "Topic",
    "Unique",
    "after",
    "aggregator",
    "approx_n_unique",
    "approx_quantile",
    "arg_max",
    "arg_min",
    "arrival",
    "audio_video",
    "calendar",
    "chain",
    "chord",
    "chunks",
    "col",
    "collect",
    "count",
    "count_window",
    "cron",
    "delta",
    "early",
    "errors",
    "every",
    "first",
    "gathered",
    "group",
    "hopping",
    "iceberg",
    "last",
    "ledger",
    "lit",
    "max",
    "mean",
    "median",
    "min",
    "n_unique",
    "quantile",
    "sequence_frames",
    "session",
    "signals",
    "sliding",
    "sql",
    "sql_table",
    "starmap",
    "std",
    "sum",
    "top_k",
    "tumbling",
    "var",
    "webhook",
    "when",
]
