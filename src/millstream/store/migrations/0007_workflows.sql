-- Workflows: calls that wait for the results of others, as trees of nodes. A node changes state in the transaction that
-- ends the task it follows. Times are UTC microseconds.
CREATE TABLE workflow_nodes (
    seq INTEGER PRIMARY KEY,
    -- Of a node of kind task also the id of its task.
    id TEXT NOT NULL UNIQUE,
    root INTEGER NOT NULL,
    parent INTEGER CHECK ((parent IS NULL) = (role = 'root')),
    role TEXT NOT NULL CHECK (role = 'root' OR role = 'member' OR role = 'link' OR role = 'error'),
    position INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind = 'task' OR kind = 'chain' OR kind = 'group'),
    state TEXT NOT NULL CHECK (state = 'waiting' OR state = 'running' OR state = 'succeeded' OR state = 'failed'),
    -- Members of a group that have not ended.
    remaining INTEGER NOT NULL,
    -- Of a root: tasks that were enqueued and have not ended; and when the tree may be forgotten.
    open INTEGER NOT NULL DEFAULT 0,
    expires_us INTEGER,
    name TEXT NOT NULL,
    queue TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    finished_us INTEGER CHECK ((finished_us IS NOT NULL) = (state = 'succeeded' OR state = 'failed')),
    -- MessagePack: the call, the value of what succeeded, the error of what failed.
    call BLOB,
    value BLOB,
    error BLOB
) STRICT;

CREATE INDEX workflow_nodes_below ON workflow_nodes (parent, role, position);
CREATE INDEX workflow_nodes_of_root ON workflow_nodes (root);
CREATE INDEX workflow_nodes_expiring ON workflow_nodes (expires_us) WHERE expires_us IS NOT NULL;
