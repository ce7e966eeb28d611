SELECT digest, events
FROM received
WHERE topic_id = ? AND key = ?
