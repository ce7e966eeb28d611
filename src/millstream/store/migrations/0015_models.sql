-- Models that flows train: what each has learned changes only in the transaction that holds the flow's place and output.

-- epoch grows with each run that trains the model, and a commit with an older one is refused. revision grows with each
-- rollback: what was learned from before it is forgotten. version is the one that is asked, and that the log builds on;
-- versions counts those that were made.
CREATE TABLE model (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    estimator TEXT NOT NULL,
    library TEXT NOT NULL,
    declaration BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    owner TEXT,
    revision INTEGER NOT NULL DEFAULT 0,
    version INTEGER,
    versions INTEGER NOT NULL DEFAULT 0,
    rows INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,
    unlabelled INTEGER NOT NULL DEFAULT 0,
    incomplete INTEGER NOT NULL DEFAULT 0,
    figures BLOB NOT NULL,
    flow TEXT NOT NULL,
    updated_us INTEGER NOT NULL
) STRICT;

-- A version: how many rows it had learned, and how wrong it was. Its bytes are in model_part, with the CRC32C of them all.
CREATE TABLE model_version (
    model_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    made_us INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    waiting INTEGER NOT NULL,
    figures BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (model_id, version)
) STRICT, WITHOUT ROWID;

-- The bytes of a version, a pickle, in pieces.
CREATE TABLE model_part (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE INDEX model_part_by_version ON model_part (model_id, version);

-- Rows that were learned since the version, in order, as Arrow IPC streams: learned again, they give the model.
CREATE TABLE model_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model_id INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE INDEX model_log_by_model ON model_log (model_id);
