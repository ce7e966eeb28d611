SELECT
    seq, id, queue, failures, deaths, acks_late, due_us, attempts_before, alone, name,
    lock_key, limit_key
FROM tasks
WHERE state = 'running' AND lease = ?
ORDER BY seq
