INSERT INTO received (topic_id, key, digest, events, forget_us)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
RETURNING events
