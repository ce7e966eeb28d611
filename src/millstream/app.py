"""The only composition root: from a path or URLs to engines.

An ``App`` is cheap: nothing is opened before the first use, so a module may declare one with its tasks and topics at
import. The store is opened once a process, and again in a forked child.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from millstream.engines.local.embedded import Embedded
from millstream.engines.local.inbox import LocalInbox
from millstream.engines.local.log import LocalLog, LocalLogTransaction
from millstream.engines.local.task_schedules import LocalSchedules
from millstream.engines.local.tasks import LocalTasks
from millstream.engines.registry import engine_of
from millstream.flows.flow import Flow
from millstream.flows.models import ModelStore
from millstream.flows.triggers import TriggerRegistry
from millstream.log.definition import topic_spec
from millstream.log.topic import Topic, TopicTransaction
from millstream.primitives.clock import SYSTEM_CLOCK, Clock
from millstream.primitives.durability import Durability, durability_of
from millstream.primitives.duration import Duration, duration_us
from millstream.primitives.errors import ConfigurationError, PlanError
from millstream.primitives.histogram import Histogram
from millstream.primitives.schema import SchemaLike
from millstream.primitives.signing import secret_key
from millstream.primitives.size import Size, size_bytes
from millstream.tasks.events import TaskEvents
from millstream.tasks.options import TaskKeywords
from millstream.tasks.outbox import Outbox
from millstream.tasks.registry import TaskRegistry
from millstream.tasks.result import AsyncResult
from millstream.tasks.routes import RoutesLike
from millstream.tasks.schedule import ScheduleRegistry
from millstream.tasks.signature import Signature
from millstream.tasks.task import messages_of
from millstream.tasks.workers import WorkerControl
from millstream.tasks.workflow_starmap import declare_starmap

if TYPE_CHECKING:
    from millstream.gateway.http.asgi import Webhook

R = TypeVar("R")


class AppTransaction(TopicTransaction):
    """Events, places of consumers and calls of tasks that become true together. One thread."""

    def __init__(self, transaction: LocalLogTransaction, tasks: LocalTasks) -> None:
        """Made by ``App.transaction``."""
        super().__init__(transaction)
        self._local = transaction
        self._tasks = tasks

    def enqueue(self, *calls: Signature[R]) -> list[AsyncResult[R]]:
        """Add calls: ``tx.enqueue(send_mail.s("ann"))``. They are checked now, and sent when the transaction commits.

        Raises TaskArgumentError and whatever ``delay`` raises; until the commit a result knows no task.
        """
        messages = messages_of(calls, self._tasks.now_us())
        results: list[AsyncResult[R]] = [
            AsyncResult(message.id, engine=self._tasks, decode=call.task.decode)
            for call, message in zip(calls, messages, strict=True)
        ]

        def settle(standing: Mapping[str, str]) -> None:
            for result, message in zip(results, messages, strict=True):
                result.id = standing.get(message.id, message.id)

        self._local.add(self._tasks.staged(messages, settle))
        return results


class App:
    """Tasks, topics and flows under one name, in one directory. Any thread may use it.

    ``store`` is the directory (default: ``./<name>.mill``), made on first use. ``durability="disk"`` acknowledges what
    survives a power loss, ``"process"`` what survives ``kill -9``. ``log``, ``tasks``, ``batch`` and ``stream``
    choose another engine by URL; left out, or given by ``MILLSTREAM_LOG`` and so on, everything runs embedded.
    """

    def __init__(  # noqa: PLR0913 - what is said of an app is said in one place
        self,
        name: str,
        *,
        store: str | os.PathLike[str] | None = None,
        durability: str | Durability = Durability.DISK,
        log: str | None = None,
        tasks: str | None = None,
        batch: str | None = None,
        stream: str | None = None,
        include: Sequence[str] = (),
        task_defaults: TaskKeywords | None = None,
        task_routes: RoutesLike = (),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Declare the app; nothing is opened. Raises ConfigurationError for what it does not understand.

        ``include``: modules that declare tasks, imported by workers when they start. ``task_defaults``: options of all
        tasks that do not say otherwise, such as ``{"retries": 5}``. ``task_routes``: where calls wait by the name of
        the task, such as ``{"mail.*": "mail"}``; what a task or a call says of its queue comes before that.
        """
        if not name:
            raise ConfigurationError(
                "an app needs a name",
                where="ms.App",
                expected="a text that is not empty",
                next_step='give it one, for example ms.App("shop")',
            )
        self.name = name
        self.store_path = os.fspath(store) if store is not None else f"{name}.mill"
        self.durability = durability_of(durability)
        urls = {"log": log, "tasks": tasks, "batch": batch, "stream": stream}
        for contract, url in urls.items():
            engine_of(contract, url)
        self._clock = clock
        self._topics: dict[str, Topic] = {}
        self._lock = threading.Lock()
        self._open: Embedded | None = None
        self.tasks = TaskRegistry(
            engine=lambda: self.tasks_engine, defaults=task_defaults, routes=task_routes
        )
        """The tasks that were declared, by name."""
        self.task = self.tasks.task
        """The decorator: ``@app.task`` or ``@app.task(retries=5)``. See ``TaskRegistry.task``."""
        self.signals = self.tasks.signals
        """Functions of yours that are called when something happens: ``@app.signals.task_failure.connect``."""
        if include:
            self.tasks.autodiscover(include, related_name=None, where=f"include of app {name!r}")
        self.autodiscover = self.tasks.autodiscover
        """Finds modules that declare tasks. See ``TaskRegistry.autodiscover``."""
        declare_starmap(self.tasks)
        self.override = self.tasks.override
        """Replaces a provider of dependencies, for tests. See ``TaskRegistry.override``."""
        self.send_task = self.tasks.send_task
        """Sends a call by the task's name: ``app.send_task("shop.resize", ["a.jpg", 320])``."""
        self.schedules = ScheduleRegistry(
            owner=name, engine=lambda: self.schedules_engine, tasks=self.tasks
        )
        """The schedules that were declared, and those in the store."""
        self.schedule = self.schedules.declare
        """Declare a schedule: ``app.schedule("report", report.s(), ms.cron("0 9 * * *"))``."""
        self.triggers = TriggerRegistry(engine=lambda: self._engines().triggers)
        """The flows that run by themselves: look at them, run what is due. See ``TriggerRegistry``."""
        self.trigger = self.triggers.declare
        """The decorator of a function that returns a flow: ``@app.trigger(ms.cron("0 3 * * *"))``."""

    def _engines(self) -> Embedded:
        engines = self._open
        if engines is None or engines.closed:
            with self._lock:
                engines = self._open
                if engines is None or engines.closed:
                    engines = self._open = Embedded.open(
                        self.store_path, durability=self.durability, clock=self._clock
                    )
        return engines

    @property
    def log_engine(self) -> LocalLog:
        """The engine of the log; opens the store."""
        return self._engines().log

    @property
    def tasks_engine(self) -> LocalTasks:
        """The engine of the tasks; opens the store."""
        return self._engines().tasks

    @property
    def schedules_engine(self) -> LocalSchedules:
        """The engine of the schedules; opens the store."""
        return LocalSchedules(self.tasks_engine.store)

    @property
    def workers(self) -> WorkerControl:
        """The workers that live: look at them, end them, resize their pools. See ``WorkerControl``."""
        return self.tasks_engine.workers

    @property
    def events(self) -> TaskEvents:
        """The stream of what happens to tasks: turn it on, follow it. See ``TaskEvents``."""
        return self.tasks_engine.events

    def topic(
        self,
        name: str,
        *,
        schema: SchemaLike | None = None,
        key: str | None = None,
        partitions: int = 1,
        retention: Duration | None = None,
        retention_bytes: int | None = None,
        compaction: bool = False,
    ) -> Topic:
        """Declare a topic; it is made at its first use.

        ``schema`` maps columns to types; without one the topic is plain (key, value, headers, timestamp of bytes, as
        Kafka's). ``key`` is the column that chooses the partition. Events are deleted when all of their frame are
        older than ``retention``, and the oldest when a partition holds more than ``retention_bytes``; with
        ``compaction`` the last event of each key stays. Raises ConfigurationError or SchemaError; TopicExists at
        first use if it is stored with another definition.
        """
        spec = topic_spec(
            name,
            schema=schema,
            key=key,
            partitions=partitions,
            retention=retention,
            retention_bytes=retention_bytes,
            compaction=compaction,
        )
        topic = self._topics[name] = Topic(spec, lambda: self.log_engine)
        return topic

    def topics(self) -> list[str]:
        """Return the names of all topics in the store."""
        return self.log_engine.topic_names()

    def transaction(self) -> AppTransaction:
        """Begin a transaction over topics, consumers and tasks.

        ``with app.transaction() as tx: tx.append(orders, …); tx.commit(consumer); tx.enqueue(send_mail.s("ann"))``.
        """
        return AppTransaction(self.log_engine.transaction(), self.tasks_engine)

    def outbox(self, *, database: str = "sqlite") -> Outbox:
        """Return an outbox in a database of yours: ``"sqlite"`` or ``"postgresql"``. See ``Outbox``."""
        return Outbox(self.tasks, database=database)

    def read(
        self,
        source: object,
        *,
        file_format: str | None = None,
        schema: SchemaLike | None = None,
        storage_options: Mapping[str, Any] | None = None,
        on_deleted: str = "fail",
    ) -> Flow:
        """Begin a flow from a topic, files (a path with ``*``, or a directory), a table in memory, or dicts.

        With ``schema`` files need not be there yet: a stream takes them as they come. Dicts, which always need a
        schema, come from an iterable, an async iterable, or a function that returns one; a batch reads them piece by
        piece, and a generator once. A URL such as ``s3://bucket/day=*/*.parquet`` names files on another file system,
        of any kind that fsspec opens; ``storage_options`` are for that one.

        ``on_deleted`` says what a stream does about events of a topic that retention has deleted before it read them:
        ``"fail"`` with a StepError, or ``"skip"`` them. Raises UnknownTopic or PlanError when there is nothing of that
        name.
        """
        flows = self._engines().flows
        of_files = (file_format, schema, storage_options) != (None, None, None)
        if isinstance(source, Topic) and not of_files:
            return flows.read_topic(source.info.name, on_deleted=on_deleted)
        if isinstance(source, str) and not of_files and source in self.topics():
            return flows.read_topic(source, on_deleted=on_deleted)
        if on_deleted != "fail":
            raise PlanError(
                "on_deleted= is for topics",
                where="read(…)",
                expected="a topic, or no on_deleted=",
                next_step="leave it out",
            )
        return flows.read(
            source, file_format=file_format, schema=schema, storage_options=storage_options
        )

    def webhook(
        self,
        *topics: Topic | str,
        secret: str | Sequence[str] = (),
        signature: str = "standard",
        limit: Size = "8MiB",
        durability: str | Durability | None = None,
        remember: Duration = "7d",
    ) -> Webhook:
        """Return an ASGI app that appends what is posted to it: ``POST /topics/NAME`` with JSON.

        A body is an object, an array of them or JSON lines, of at most ``limit``; it is checked against the topic's
        columns. A plain topic takes any body as the value of one event. 200 is answered when the events are as durable
        as ``durability`` says (the app's, if it is left out). A message with a key (``Idempotency-Key``,
        ``webhook-id`` or ``X-GitHub-Delivery``) that comes again is not appended again, for as long as ``remember``.

        ``topics`` are those that can be posted to; without any, those that the app has declared. With
        ``secret`` only requests that it signs are believed, as ``signature`` says (``"standard"`` or ``"github"``);
        several secrets are for the time in which one is changed. Run it with ``millstream webhook``, or mount it in an
        app of yours. Raises ConfigurationError; UnknownTopic when it starts, for a name that nobody has.
        """
        from millstream.gateway.http.asgi import StoredTopic, Webhook, WebhookPolicy

        secrets = (secret,) if isinstance(secret, str) else tuple(secret)

        def inbox() -> LocalInbox:
            return LocalInbox(self.log_engine)

        def named(topic: Topic | str) -> Topic | StoredTopic:
            if isinstance(topic, Topic):
                return topic
            return self._topics.get(topic) or StoredTopic(topic, inbox)

        known = {handle.name: handle for handle in map(named, topics)}
        policy = WebhookPolicy(
            keys=tuple(secret_key(one, signature, where="app.webhook") for one in secrets),
            signature=signature,
            body_bytes_max=size_bytes(limit),
            durability=durability_of(self.durability if durability is None else durability),
            remember_us=duration_us(remember),
        )
        return Webhook(
            inbox,
            lambda: known if topics else self._topics,
            policy,
            clock=self._clock,
        )

    @property
    def models(self) -> ModelStore:
        """The models that flows train: look at them, roll them back. See ``ModelStore``."""
        return self._engines().models

    def delays(
        self, *, since: Duration | None = None
    ) -> Mapping[tuple[str, str], Mapping[str, Histogram]]:
        """Return the four delays of each (kind, subject) as histograms by phase.

        With ``since`` only those of the last so much time.
        """
        return self._engines().delays(since=since)

    def close(self) -> None:
        """Leave groups, stop background work and close the store. The next use opens it again."""
        with self._lock:
            engines, self._open = self._open, None
        if engines is not None:
            engines.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Say which app it is, and where."""
        return f"App({self.name!r}, store={self.store_path!r})"
