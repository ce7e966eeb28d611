SELECT value FROM task_counters WHERE name = ?
