SELECT number, outcome, worker, started_us, ended_us, error_type, error, traceback
FROM task_attempts
WHERE task = (SELECT seq FROM tasks WHERE id = ?)
ORDER BY number
