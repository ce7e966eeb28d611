-- The log: topics, their partitions, frames and segments, producers and consumer groups.

CREATE TABLE topic (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    typed INTEGER NOT NULL,
    key TEXT,
    retention_us INTEGER,
    retention_bytes INTEGER,
    compaction INTEGER NOT NULL,
    created_us INTEGER NOT NULL
) STRICT;

CREATE TABLE topic_schema (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic_id INTEGER NOT NULL,
    arrow BLOB NOT NULL
) STRICT;

CREATE TABLE partition (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0,
    next_offset INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL DEFAULT 0,
    merged_to INTEGER NOT NULL DEFAULT 0,
    compacted_to INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic_id, number)
) STRICT;

CREATE TABLE segment (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    partition_id INTEGER NOT NULL,
    owner TEXT NOT NULL,
    sealed INTEGER NOT NULL DEFAULT 0,
    created_us INTEGER NOT NULL
) STRICT;

CREATE INDEX segment_by_partition ON segment (partition_id);

-- A frame lies in a segment, or, when it is small, in the row itself.
CREATE TABLE frame (
    partition_id INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    first_us INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    segment_id INTEGER,
    position INTEGER,
    inline BLOB,
    PRIMARY KEY (partition_id, first_offset)
) STRICT, WITHOUT ROWID;

CREATE TABLE producer (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE,
    epoch INTEGER NOT NULL
) STRICT;

-- The last batches of each producer in each partition, so that a repeated one is recognized.
CREATE TABLE producer_batch (
    producer_id INTEGER NOT NULL,
    partition_id INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (producer_id, partition_id, last_sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE consumer_group (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    topic_id INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    UNIQUE (name, topic_id)
) STRICT;

CREATE TABLE group_member (
    id TEXT PRIMARY KEY,
    group_id INTEGER NOT NULL,
    process TEXT NOT NULL,
    session_until_us INTEGER NOT NULL,
    joined_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX group_member_by_group ON group_member (group_id);

-- Who reads a partition (owner), who shall (target), and how far the group has come (position).
CREATE TABLE group_partition (
    group_id INTEGER NOT NULL,
    partition_id INTEGER NOT NULL,
    position INTEGER,
    owner TEXT,
    target TEXT,
    epoch INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, partition_id)
) STRICT, WITHOUT ROWID;
