SELECT
    EXISTS (SELECT 1 FROM task_orders WHERE lease = :lease),
    EXISTS (SELECT 1 FROM tasks WHERE state = 'running' AND lease = :lease AND revoke_reason IS NOT NULL)
