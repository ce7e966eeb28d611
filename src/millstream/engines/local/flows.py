"""The way in to flows on this machine: ``LocalFlows(log).read(…)``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from millstream.engines.local.batch import LocalBatch
from millstream.engines.local.flow_lakes import lake_source
from millstream.engines.local.flow_model_store import LocalModels
from millstream.engines.local.flow_rows import gives_rows, is_table, rows_source
from millstream.engines.local.flow_sources import file_source, table_source, topic_source
from millstream.engines.local.flow_sql import sql_source
from millstream.engines.local.log import LocalLog
from millstream.engines.local.stream import LocalStream
from millstream.flows.contract import FlowEngines
from millstream.flows.flow import Flow
from millstream.flows.lakes import LakeTable
from millstream.flows.plan import Plan
from millstream.flows.source import Source
from millstream.flows.sql import SqlQuery
from millstream.primitives.errors import PlanError
from millstream.primitives.schema import SchemaLike


class LocalFlows:
    """Flows over one log. Thread-safe."""

    def __init__(self, log: LocalLog) -> None:
        """Bind flows to this machine's engines."""
        self._log = log
        self.engines = FlowEngines(
            LocalBatch(log), LocalStream(log), str(log.store.path), LocalModels(log.store)
        )

    def read_topic(self, topic: str, *, on_deleted: str = "fail") -> Flow:
        """Return a flow of a topic's events. Raises UnknownTopic."""
        return self._flow(topic_source(self._log, topic, on_deleted=on_deleted))

    def read(
        self,
        what: object,
        *,
        file_format: str | None = None,
        schema: SchemaLike | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Flow:
        """Return a flow of files (a path, with ``*`` and ``**``, or a directory), of a table in memory,
        of dicts, of a query, or of a table of a lake.

        Raises PlanError when its format is not known, or there is no such file and no ``schema`` to go by.
        """
        if isinstance(what, str | PurePath):
            return self._flow(
                file_source(
                    str(what), file_format=file_format, schema=schema, options=storage_options
                )
            )
        if storage_options:
            raise PlanError(
                f"storage_options for a {type(what).__name__}",
                where="read(…)",
                expected="storage_options for files on another file system",
                next_step="leave them out",
            )
        if isinstance(what, LakeTable):
            if file_format is not None or schema is not None:
                raise PlanError(
                    f"{what.text()} has its columns already",
                    where="read(…)",
                    expected="neither schema= nor file_format= here",
                    next_step="leave them out",
                )
            return self._flow(lake_source(what))
        if isinstance(what, SqlQuery):
            if file_format is not None or schema is not None:
                raise PlanError(
                    "a query has its schema in ms.sql(…, schema=…)",
                    where="read(…)",
                    expected="neither schema= nor file_format= here",
                )
            return self._flow(sql_source(what))
        if schema is not None and file_format is None and gives_rows(what):
            return self._flow(rows_source(what, schema))
        if is_table(what) and (file_format is not None or schema is not None):
            raise PlanError(
                f"a {type(what).__name__} has its columns already",
                where="read(…)",
                expected="file_format= for files, schema= for files and for dicts",
                next_step="leave them out",
            )
        return self._flow(table_source(what))

    def _flow(self, source: Source) -> Flow:
        return Flow(Plan(source), self.engines)
