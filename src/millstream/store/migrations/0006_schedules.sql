-- What is enqueued by itself, and when. A run is enqueued in the transaction that moves next_us on: never twice.
-- Times are UTC microseconds.
CREATE TABLE schedules (
    name TEXT PRIMARY KEY,
    -- The app that declares it; NULL for one that was stored by hand and stays until it is removed by hand.
    owner TEXT,
    -- When, as JSON: see millstream/primitives/schedule_times.py.
    times TEXT NOT NULL,
    missed TEXT NOT NULL CHECK (missed IN ('skip', 'latest', 'all')),
    task TEXT NOT NULL,
    queue TEXT NOT NULL,
    -- What intervals are counted from: when these times were first stored.
    anchor_us INTEGER NOT NULL,
    -- The first due time that is not handled; NULL if there is none any more.
    next_us INTEGER,
    -- The last due time that was run.
    last_us INTEGER,
    runs INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    -- Not run since then: somebody paused it, or it could not be read (why says so), or no app declares it any more.
    paused_us INTEGER,
    why TEXT,
    retired_us INTEGER,
    -- The call, as MessagePack, with its times relative to the run.
    message BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX schedules_due ON schedules (next_us)
WHERE next_us IS NOT NULL AND paused_us IS NULL AND retired_us IS NULL;
