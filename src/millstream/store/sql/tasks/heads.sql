SELECT
    priority, seq, alone, id, name, arguments, failures, deaths, enqueued_us, due_us, eta_us, queue,
    attempts_before, start_before_us, revoke_reason, lock_key, limit_key
FROM tasks
WHERE state = 'queued' AND queue = :queue
    AND NOT EXISTS (SELECT 1 FROM task_pauses WHERE queue = :queue)
ORDER BY priority DESC, seq
LIMIT :tasks_max
