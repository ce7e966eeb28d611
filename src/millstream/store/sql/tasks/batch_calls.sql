-- The columns of heads.sql.
SELECT
    priority, seq, alone,
    coalesce(start_before_us, revoke_reason, lock_key, limit_key) IS NOT NULL,
    revoke_reason, lock_key, limit_key,
    seq, id, name, arguments, attempts_before + failures + deaths + 1, failures, enqueued_us, due_us, eta_us,
    queue, priority, start_before_us, soft_time_limit_us, time_limit_us
FROM tasks
WHERE seq IN (
    SELECT seq FROM (
        SELECT seq FROM (
            SELECT seq, name, alone FROM tasks
            WHERE state = 'queued' AND queue = :queue
            ORDER BY priority DESC, seq
            LIMIT :searched_max
        )
        WHERE name = :name AND NOT alone
        LIMIT :tasks_max
    )
    UNION ALL
    SELECT seq FROM tasks WHERE gate = :key AND gate IS NOT NULL
)
ORDER BY priority DESC, seq
LIMIT :tasks_max
