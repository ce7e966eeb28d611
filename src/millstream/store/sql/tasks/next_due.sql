SELECT
    (SELECT min(due_us) FROM tasks WHERE state = 'scheduled'),
    (SELECT min(due_us) FROM tasks WHERE state = 'retrying'),
    (SELECT min(opens_us) FROM task_limits WHERE opens_us IS NOT NULL)
