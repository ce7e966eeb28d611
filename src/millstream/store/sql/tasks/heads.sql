-- From the eighth column on: the fields of message.Claimed, in their order.
SELECT
    priority, seq, alone,
    coalesce(start_before_us, revoke_reason, lock_key, limit_key) IS NOT NULL,
    revoke_reason, lock_key, limit_key,
    seq, id, name, arguments, attempts_before + failures + deaths + 1, failures, enqueued_us, due_us, eta_us,
    queue, priority, start_before_us, soft_time_limit_us, time_limit_us
FROM tasks
WHERE state = 'queued' AND queue = :queue
    AND NOT EXISTS (SELECT 1 FROM task_pauses WHERE queue = :queue)
ORDER BY priority DESC, seq
LIMIT :tasks_max
