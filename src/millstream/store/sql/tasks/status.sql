SELECT
    seq, name, queue, priority, state, enqueued_us, due_us, failures, deaths, finished_us, result, attempts_before,
    start_before_us, revoke_reason
FROM tasks WHERE id = ?
