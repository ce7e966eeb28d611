DELETE FROM task_workers WHERE lease = ? AND beats = ? RETURNING worker
