SELECT
    EXISTS (
        SELECT 1 FROM json_each(:queues) AS asked
        WHERE EXISTS (SELECT 1 FROM tasks WHERE state = 'queued' AND queue = asked.value)
            AND NOT EXISTS (SELECT 1 FROM task_pauses WHERE queue = asked.value)
    ),
    (SELECT min(due_us) FROM tasks WHERE state = 'scheduled'),
    (SELECT min(due_us) FROM tasks WHERE state = 'retrying'),
    (
        SELECT min(iif(opens_us > :now_us + interval_us, :now_us, opens_us))
        FROM task_limits WHERE opens_us IS NOT NULL
    )
