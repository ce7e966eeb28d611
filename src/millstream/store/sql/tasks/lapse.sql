UPDATE tasks
SET state = :state, finished_us = :now_us, expires_us = :now_us + :kept_us, gate = NULL,
    revoke_reason = coalesce(revoke_reason, 'it expired before it was started')
WHERE seq IN (
    SELECT seq FROM tasks
    WHERE start_before_us IS NOT NULL AND lease IS NULL AND finished_us IS NULL AND start_before_us <= :now_us
    ORDER BY start_before_us LIMIT :tasks_max
)
RETURNING id, lock_key, limit_key
