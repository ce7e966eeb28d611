-- How many rows of a delivery have arrived, one after the other: a webhook takes them in pieces.
ALTER TABLE flow_delivery ADD COLUMN done INTEGER NOT NULL DEFAULT 0;

-- Keys of messages that a topic has got from outside, so that one which is sent again is not appended again. ``digest`` is
-- of the message, ``events`` how many it held. Kept until ``forget_us``, and a little longer.
CREATE TABLE received (
    topic_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    events INTEGER NOT NULL,
    forget_us INTEGER NOT NULL,
    PRIMARY KEY (topic_id, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX received_by_time ON received (forget_us);
