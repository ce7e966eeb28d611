SELECT state, count(*) FROM tasks GROUP BY state
