-- Flows that run as streams: who runs each, how far it has come, and what its windows hold.
-- All of it changes only in the transaction that also makes the flow's output visible.

-- epoch grows by one with each process that takes the flow over; a commit with an older epoch is refused.
CREATE TABLE flow (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    owner TEXT,
    fingerprint BLOB NOT NULL,
    closed_until_us INTEGER,
    rows_in INTEGER NOT NULL DEFAULT 0,
    rows_out INTEGER NOT NULL DEFAULT 0,
    late INTEGER NOT NULL DEFAULT 0,
    untimed INTEGER NOT NULL DEFAULT 0,
    batches INTEGER NOT NULL DEFAULT 0,
    committed_us INTEGER NOT NULL
) STRICT;

-- next_offset is what is read next; seen_us the greatest event time of the partition, null before the first.
CREATE TABLE flow_position (
    flow_id INTEGER NOT NULL,
    topic_id INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    seen_us INTEGER,
    PRIMARY KEY (flow_id, topic_id, partition)
) STRICT, WITHOUT ROWID;

-- The changelog of the windows that are open: Arrow IPC streams of partial aggregates, in order. All rows merged are the
-- state; a snapshot replaces the rows before it.
CREATE TABLE flow_state (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    flow_id INTEGER NOT NULL,
    groups INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE INDEX flow_state_by_flow ON flow_state (flow_id);
