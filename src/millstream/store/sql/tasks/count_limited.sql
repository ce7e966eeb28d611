SELECT count(*) FROM tasks WHERE limit_key = ? AND limit_key IS NOT NULL AND lease IS NOT NULL
