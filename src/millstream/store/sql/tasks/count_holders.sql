SELECT count(*) FROM task_holders WHERE key = ?
