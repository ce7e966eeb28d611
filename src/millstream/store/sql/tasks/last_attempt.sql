SELECT number, outcome, worker, started_us, ended_us, error_type, error, traceback
FROM task_attempts
WHERE task = ?
ORDER BY number DESC
LIMIT 1
