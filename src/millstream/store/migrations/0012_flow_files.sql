-- Files of a flow's last commit: written and synced as partial, and to be renamed to final. The next commit drops them.
CREATE TABLE flow_file (
    id INTEGER PRIMARY KEY,
    flow_id INTEGER NOT NULL,
    partial TEXT NOT NULL,
    final TEXT NOT NULL
) STRICT;

CREATE INDEX flow_file_by_flow ON flow_file (flow_id);

-- How far a flow has read files: those that are done are not read again.
CREATE TABLE flow_input (
    flow_id INTEGER NOT NULL,
    path TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    modified_us INTEGER NOT NULL,
    rows_read INTEGER NOT NULL,
    is_done INTEGER NOT NULL,
    PRIMARY KEY (flow_id, path)
) STRICT, WITHOUT ROWID;
