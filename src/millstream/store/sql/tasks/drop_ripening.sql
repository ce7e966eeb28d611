DELETE FROM task_limits WHERE key = ?
