DELETE FROM task_workers WHERE lease = ? RETURNING worker
