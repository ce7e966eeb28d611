-- Files of a flow's last commit: written and synced as partial, and to be renamed to final. The next commit drops them.
CREATE TABLE flow_file (
    id INTEGER PRIMARY KEY,
    flow_id INTEGER NOT NULL,
    partial TEXT NOT NULL,
    final TEXT NOT NULL
) STRICT;

CREATE INDEX flow_file_by_flow ON flow_file (flow_id);
