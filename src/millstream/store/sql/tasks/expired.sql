SELECT
    EXISTS (SELECT 1 FROM tasks WHERE expires_us <= :now_us),
    EXISTS (
        SELECT 1 FROM task_deadlines LEFT JOIN tasks ON tasks.id = task_deadlines.task
        WHERE task_deadlines.start_before_us <= :now_us AND lease IS NULL
    ),
    EXISTS (SELECT 1 FROM task_uniques WHERE until_us <= :now_us)
