DELETE FROM task_holders WHERE key = ? AND task = ?
