SELECT
    EXISTS (SELECT 1 FROM tasks WHERE state = 'queued' AND queue = :queue)
    AND NOT EXISTS (SELECT 1 FROM task_pauses WHERE queue = :queue)
