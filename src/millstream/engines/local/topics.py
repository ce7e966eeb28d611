"""Topics in the catalog: made, changed, looked up, deleted."""

from __future__ import annotations

import threading

import pyarrow as pa

from millstream.log.definition import TopicInfo, TopicSpec, reconcile
from millstream.primitives.errors import UnknownTopic
from millstream.primitives.schema import schema_from_bytes, schema_to_bytes
from millstream.primitives.telemetry import reach
from millstream.store import Snapshot, Store, Transaction


class Topics:
    """The topics of one store. Thread-safe."""

    def __init__(self, store: Store) -> None:
        """Remember the store."""
        self._store = store
        self._schemas: dict[int, pa.Schema] = {}
        self._lock = threading.Lock()

    def create(self, spec: TopicSpec) -> TopicInfo:
        """Return the topic, made if it is new, with columns, retention and compaction brought up to date.

        Raises TopicExists if it exists with another key, partitions or columns. One transaction.
        """
        return self._store.write(lambda tx: self._create(tx, spec))

    def _create(self, tx: Transaction, spec: TopicSpec) -> TopicInfo:
        existing = find_topic(tx, spec.name)
        settings = {
            "retention_us": spec.retention_us,
            "retention_bytes": spec.retention_bytes,
            "compaction": int(spec.compaction),
        }
        if existing is None:
            [[topic_id]] = tx.run(
                "log/topic_insert",
                {
                    "name": spec.name,
                    "typed": int(spec.typed),
                    "key": spec.key,
                    "now_us": tx.now_us,
                    **settings,
                },
            )
            tx.run("log/schema_insert", (topic_id, schema_to_bytes(spec.schema)))
            tx.many("log/partition_insert", [(topic_id, n) for n in range(spec.partitions)])
        else:
            wider = reconcile(existing, spec)
            if wider is not None:
                tx.run("log/schema_insert", (existing.id, schema_to_bytes(wider)))
            tx.run("log/topic_update", {"id": existing.id, **settings})
        made = find_topic(tx, spec.name)
        assert made is not None
        return made

    def get(self, name: str) -> TopicInfo:
        """Return a topic. Raises UnknownTopic."""
        with self._store.read() as snapshot:
            info = find_topic(snapshot, name)
            known = [] if info else [row[0] for row in snapshot.run("log/topics")]
        if info is None:
            raise unknown_topic(name, str(self._store.path), known)
        return info

    def names(self) -> list[str]:
        """Return the names of all topics, sorted."""
        with self._store.read() as snapshot:
            return [row[0] for row in snapshot.run("log/topics")]

    def schema(self, topic_id: int, schema_id: int) -> pa.Schema:
        """Return a schema that frames of the topic were written with."""
        with self._lock:
            if schema_id not in self._schemas:
                with self._store.read() as snapshot:
                    for number, arrow in snapshot.run("log/schemas", (topic_id,)):
                        self._schemas[number] = schema_from_bytes(arrow)
            return self._schemas[schema_id]

    def delete(self, name: str) -> None:
        """Delete a topic with its events and groups. Raises UnknownTopic.

        One transaction; the segment files go when background work finds them dead, so a crash leaves nothing half.
        """
        info = self.get(name)

        def work(tx: Transaction) -> None:
            for group_id, _, _ in tx.run("log/groups_of_topic", (info.id,)):
                tx.run("log/group_partitions_delete", (group_id,))
                tx.run("log/group_members_delete", (group_id,))
                tx.run("log/group_delete", (group_id,))
            for partition_id in info.partition_ids:
                tx.run("log/frames_delete_partition", (partition_id,))
                tx.run("log/producer_batches_delete", (partition_id,))
            tx.run("log/partitions_delete", (info.id,))
            tx.run("log/schemas_delete", (info.id,))
            tx.run("log/topic_delete", (info.id,))
            tx.wake(f"topic:{info.id}")
            reach("topic.delete_before_commit")

        self._store.write(work)
        self._store.segments.drop(info.partition_ids)


def find_topic(snapshot: Snapshot, name: str) -> TopicInfo | None:
    """Return a topic as the catalog has it, or None."""
    rows = snapshot.run("log/topic_get", (name,))
    if not rows:
        return None
    [(topic_id, _, typed, key, retention_us, retention_bytes, compaction)] = rows
    schema_id, arrow = snapshot.run("log/schemas", (topic_id,))[-1]
    partition_ids = tuple(row[0] for row in snapshot.run("log/partitions", (topic_id,)))
    return TopicInfo(
        topic_id,
        name,
        schema_from_bytes(arrow),
        schema_id,
        bool(typed),
        key,
        partition_ids,
        retention_us,
        retention_bytes,
        bool(compaction),
    )


def unknown_topic(name: str, where: str, known: list[str]) -> UnknownTopic:
    """Return the error, with the topics that there are if the caller knows them."""
    shown = ", ".join(known[:8]) + (" …" if len(known) > 8 else "")
    return UnknownTopic(
        f"there is no topic {name!r}",
        where=where,
        expected=f"one of: {shown}" if known else "a topic that was declared and not deleted",
        next_step="declare it with app.topic(name, schema=…)",
    )
