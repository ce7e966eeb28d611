-- What a call may ask for beside its arguments: not to start too late, a lock, a limit, to be stored once; and what
-- may be done to it: revoke, requeue, pause its queue. The table is built anew, because a state was added to its CHECK.
-- The blobs come last, so that what is asked for often is not behind their overflow pages.
DROP INDEX tasks_queued;
DROP INDEX tasks_scheduled;
DROP INDEX tasks_retrying;
DROP INDEX tasks_running;
DROP INDEX tasks_expiring;
ALTER TABLE tasks RENAME TO tasks_before;
ALTER TABLE task_attempts RENAME TO task_attempts_before;

CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    -- Not IN (…): SQLite would build a table of the list for each row that it checks, at half the price of an update.
    state TEXT NOT NULL CHECK (
        state = 'queued' OR state = 'running' OR state = 'succeeded' OR state = 'scheduled'
        OR state = 'retrying' OR state = 'blocked' OR state = 'failed' OR state = 'revoked'
    ),
    acks_late INTEGER NOT NULL,
    -- 1: claimed without others, because a worker may have died of it, or because it may run once only.
    alone INTEGER NOT NULL,
    eta_us INTEGER,
    enqueued_us INTEGER NOT NULL,
    due_us INTEGER NOT NULL,
    lease INTEGER CHECK ((lease IS NOT NULL) = (state = 'running')),
    failures INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    finished_us INTEGER CHECK (
        (finished_us IS NOT NULL) = (state = 'succeeded' OR state = 'failed' OR state = 'revoked')
    ),
    expires_us INTEGER,
    -- No attempt starts after this time.
    start_before_us INTEGER,
    -- Attempts before the task was taken out of the dead set: they number the next, and are not counted again.
    attempts_before INTEGER NOT NULL DEFAULT 0,
    -- One running task a lock; so many and so often a limit, see task_limits.
    lock_key TEXT,
    limit_key TEXT,
    -- The lock or the limit that a blocked task waits for.
    gate TEXT CHECK ((gate IS NOT NULL) = (state = 'blocked')),
    -- Why the task was revoked, or shall be when it ends its attempt.
    revoke_reason TEXT,
    terminate INTEGER NOT NULL DEFAULT 0,
    arguments BLOB NOT NULL,
    result BLOB
) STRICT;

INSERT INTO tasks (
    seq, id, name, queue, priority, state, acks_late, alone, eta_us, enqueued_us, due_us, lease,
    failures, deaths, finished_us, expires_us, arguments, result
)
SELECT
    seq, id, name, queue, priority, state, acks_late, alone, eta_us, enqueued_us, due_us, lease,
    failures, deaths, finished_us, expires_us, arguments, result
FROM tasks_before;

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

INSERT INTO task_attempts SELECT * FROM task_attempts_before;
DROP TABLE task_attempts_before;
DROP TABLE tasks_before;

-- A claim reads the head of this index, so a million waiting tasks cost it nothing.
CREATE INDEX tasks_queued ON tasks (queue, priority DESC, seq) WHERE state = 'queued';
CREATE INDEX tasks_scheduled ON tasks (due_us) WHERE state = 'scheduled';
CREATE INDEX tasks_retrying ON tasks (due_us) WHERE state = 'retrying';
CREATE INDEX tasks_running ON tasks (lease) WHERE state = 'running';
CREATE INDEX tasks_expiring ON tasks (expires_us) WHERE expires_us IS NOT NULL;
CREATE INDEX tasks_blocked ON tasks (gate, priority DESC, seq) WHERE gate IS NOT NULL;

-- The running tasks that hold a lock or count for a limit; a table of its own, so that all others pay nothing for it.
CREATE TABLE task_holders (
    key TEXT NOT NULL,
    task INTEGER NOT NULL,
    PRIMARY KEY (key, task)
) STRICT, WITHOUT ROWID;

-- When a task, named by its id, expires. A row may outlive its task; whoever finds its time come removes it.
CREATE TABLE task_deadlines (
    start_before_us INTEGER NOT NULL,
    task TEXT NOT NULL,
    PRIMARY KEY (start_before_us, task)
) STRICT, WITHOUT ROWID;

-- How many tasks of a kind run at once, and how often one starts. next_us: the next start that the rate allows;
-- opens_us: when blocked tasks are let in because of it, NULL if none waits for that.
CREATE TABLE task_limits (
    key TEXT PRIMARY KEY,
    concurrency INTEGER,
    interval_us INTEGER,
    next_us INTEGER NOT NULL DEFAULT 0,
    opens_us INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX task_limits_opening ON task_limits (opens_us) WHERE opens_us IS NOT NULL;

-- The task that stands for all calls with the same key: until it has ended, and until that time.
CREATE TABLE task_uniques (
    key TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    until_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX task_uniques_ending ON task_uniques (until_us);

-- Queues from which nothing is claimed.
CREATE TABLE task_pauses (
    queue TEXT PRIMARY KEY,
    paused_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What a running task last told of itself.
CREATE TABLE task_progress (
    task INTEGER PRIMARY KEY REFERENCES tasks (seq) ON DELETE CASCADE,
    state TEXT NOT NULL,
    updated_us INTEGER NOT NULL,
    meta BLOB NOT NULL
) STRICT;
