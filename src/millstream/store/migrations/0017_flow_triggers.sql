-- Flows that triggers run. seen is JSON: what the last run that succeeded had before it, by the text of each condition. turn
-- counts the changes of the row, so that of two processes one stores what it saw. failures are those since the last
-- success; not before retry_us it is tried again.
CREATE TABLE flow_trigger (
    name TEXT PRIMARY KEY,
    anchor_us INTEGER NOT NULL,
    seen TEXT NOT NULL,
    turn INTEGER NOT NULL DEFAULT 0,
    runs INTEGER NOT NULL DEFAULT 0,
    last_us INTEGER,
    failures INTEGER NOT NULL DEFAULT 0,
    retry_us INTEGER,
    error TEXT
) STRICT;

-- How often each flow has come to an end as a batch or a bounded stream.
CREATE TABLE flow_finished (
    name TEXT PRIMARY KEY,
    runs INTEGER NOT NULL,
    last_us INTEGER NOT NULL
) STRICT;
