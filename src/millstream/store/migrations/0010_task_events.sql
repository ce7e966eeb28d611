-- Changes of tasks, while they are recorded: triggers on tasks write them, see sql/events/. The last ones are kept.
CREATE TABLE task_events (
    seq INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    queue TEXT NOT NULL,
    before TEXT,
    after TEXT,
    attempt INTEGER NOT NULL,
    worker TEXT
) STRICT;
