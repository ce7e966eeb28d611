SELECT count(*) FROM tasks WHERE lock_key = ? AND lock_key IS NOT NULL AND lease IS NOT NULL
