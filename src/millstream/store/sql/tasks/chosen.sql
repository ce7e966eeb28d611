SELECT
    seq, name, queue, priority, state, enqueued_us, due_us, failures, deaths, finished_us, NULL, attempts_before,
    start_before_us, revoke_reason, id
FROM tasks
WHERE (:state IS NULL OR state = :state)
    AND (:queue IS NULL OR queue = :queue)
    AND (:name IS NULL OR name = :name)
    AND (:before_us IS NULL OR enqueued_us < :before_us)
ORDER BY seq DESC
LIMIT :tasks_max
