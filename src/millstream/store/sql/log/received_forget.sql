DELETE FROM received
WHERE (topic_id, key) IN (
    SELECT topic_id, key
    FROM received
    WHERE forget_us <= ?
    ORDER BY forget_us
    LIMIT ?
)
