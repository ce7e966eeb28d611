-- One row a task. seq is the order of enqueuing; lease is the worker that holds it while it runs.
-- state changes only by the table in millstream/tasks/states.py. Times are UTC microseconds.
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    state TEXT NOT NULL
        CHECK (state IN ('queued', 'scheduled', 'running', 'retrying', 'succeeded', 'failed')),
    arguments BLOB NOT NULL,
    acks_late INTEGER NOT NULL,
    -- 1: claimed without others, because a worker may have died of it, or because it may run once only.
    alone INTEGER NOT NULL,
    eta_us INTEGER,
    enqueued_us INTEGER NOT NULL,
    due_us INTEGER NOT NULL,
    lease INTEGER CHECK ((lease IS NOT NULL) = (state = 'running')),
    failures INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    finished_us INTEGER CHECK ((finished_us IS NOT NULL) = (state IN ('succeeded', 'failed'))),
    expires_us INTEGER,
    result BLOB
) STRICT;

-- A claim reads the head of this index, so a million waiting tasks cost it nothing.
CREATE INDEX tasks_queued ON tasks (queue, priority DESC, seq) WHERE state = 'queued';
CREATE INDEX tasks_scheduled ON tasks (due_us) WHERE state = 'scheduled';
CREATE INDEX tasks_retrying ON tasks (due_us) WHERE state = 'retrying';
CREATE INDEX tasks_running ON tasks (lease) WHERE state = 'running';
CREATE INDEX tasks_expiring ON tasks (expires_us) WHERE expires_us IS NOT NULL;

-- Every failed attempt, as long as its task is kept.
CREATE TABLE task_attempts (
    task INTEGER NOT NULL REFERENCES tasks (seq) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('raised', 'worker_died')),
    worker TEXT NOT NULL,
    started_us INTEGER NOT NULL,
    ended_us INTEGER NOT NULL,
    error_type TEXT NOT NULL,
    error TEXT NOT NULL,
    traceback TEXT NOT NULL,
    PRIMARY KEY (task, number)
) STRICT, WITHOUT ROWID;

-- Workers that may hold tasks. A number is never used again: it is the fence against those who were evicted.
CREATE TABLE task_workers (
    lease INTEGER PRIMARY KEY AUTOINCREMENT,
    process TEXT NOT NULL,
    worker TEXT NOT NULL,
    queues TEXT NOT NULL,
    lease_us INTEGER NOT NULL,
    beats INTEGER NOT NULL DEFAULT 0,
    joined_us INTEGER NOT NULL
) STRICT;

CREATE TABLE task_counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
