SELECT seq, id FROM tasks
WHERE seq > :after
    AND (:state IS NULL OR state = :state)
    AND (:queue IS NULL OR queue = :queue)
    AND (:name IS NULL OR name = :name)
    AND (:before_us IS NULL OR enqueued_us < :before_us)
ORDER BY seq
LIMIT :tasks_max
