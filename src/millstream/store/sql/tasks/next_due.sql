SELECT
    (SELECT min(due_us) FROM tasks WHERE state = 'scheduled'),
    (SELECT min(due_us) FROM tasks WHERE state = 'retrying')
