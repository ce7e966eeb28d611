SELECT state, count(*) FROM tasks WHERE queue = ? GROUP BY state
