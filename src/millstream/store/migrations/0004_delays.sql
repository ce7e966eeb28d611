-- The four delays of every run, micro-batch and task, as mergeable histograms by minute.

CREATE TABLE delay (
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    minute INTEGER NOT NULL,
    source_wait BLOB NOT NULL,
    start_wait BLOB NOT NULL,
    process BLOB NOT NULL,
    publish BLOB NOT NULL,
    PRIMARY KEY (kind, subject, minute)
) STRICT, WITHOUT ROWID;
