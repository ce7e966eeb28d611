SELECT
    EXISTS (SELECT 1 FROM task_workers WHERE lease = :lease),
    EXISTS (SELECT 1 FROM tasks WHERE state = 'scheduled' AND due_us <= :now_us)
        OR EXISTS (SELECT 1 FROM tasks WHERE state = 'retrying' AND due_us <= :now_us)
        OR EXISTS (
            SELECT 1 FROM task_limits
            WHERE opens_us IS NOT NULL AND (opens_us <= :now_us OR opens_us > :now_us + interval_us)
        )
