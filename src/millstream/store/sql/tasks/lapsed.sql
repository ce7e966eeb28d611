SELECT task_deadlines.start_before_us, task_deadlines.task, tasks.start_before_us, seq, state, lock_key, limit_key
FROM task_deadlines LEFT JOIN tasks ON tasks.id = task_deadlines.task
WHERE task_deadlines.start_before_us <= :now_us AND lease IS NULL
ORDER BY task_deadlines.start_before_us LIMIT :tasks_max
