INSERT INTO task_attempts (task, number, outcome, worker, started_us, ended_us, error_type, error, traceback)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
