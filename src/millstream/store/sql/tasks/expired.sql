SELECT
    EXISTS (SELECT 1 FROM tasks WHERE expires_us <= :now_us),
    EXISTS (
        SELECT 1 FROM tasks
        WHERE start_before_us IS NOT NULL AND lease IS NULL AND finished_us IS NULL AND start_before_us <= :now_us
    ),
    EXISTS (SELECT 1 FROM task_uniques WHERE until_us <= :now_us)
