-- What a worker says of itself with each sign of life (beaten_us, told) and once (profile), and what is asked of it.
-- Blobs are MessagePack: WorkerReport, WorkerProfile and Order of millstream/tasks/workers.py.
ALTER TABLE task_workers ADD COLUMN beaten_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task_workers ADD COLUMN told BLOB;

CREATE TABLE task_worker_profiles (
    lease INTEGER PRIMARY KEY REFERENCES task_workers (lease) ON DELETE CASCADE,
    profile BLOB NOT NULL
) STRICT;

CREATE TABLE task_orders (
    lease INTEGER NOT NULL REFERENCES task_workers (lease) ON DELETE CASCADE,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (lease, id)
) STRICT, WITHOUT ROWID;
