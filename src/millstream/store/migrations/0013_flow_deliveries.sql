-- Who this store is, to databases that its flows write to. A copy of the store is the same one.
CREATE TABLE store_identity (
    id TEXT PRIMARY KEY
) STRICT;

INSERT INTO store_identity (id) VALUES (lower(hex(randomblob(16))));

-- Rows of a flow's last commit, for a table in a database of the user: perhaps not delivered yet. They are an Arrow IPC
-- stream with its CRC32C. Numbers only grow, so that the database can tell what it has. The next commit drops the row.
CREATE TABLE flow_delivery (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    flow_id INTEGER NOT NULL,
    target TEXT NOT NULL,
    crc INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE INDEX flow_delivery_by_flow ON flow_delivery (flow_id);
