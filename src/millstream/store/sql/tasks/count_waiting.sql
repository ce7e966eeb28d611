-- How many tasks of these queues a free worker could take now; it stops counting at :tasks_max.
WITH wanted (queue) AS (
    SELECT value FROM json_each(:queues) WHERE value NOT IN (SELECT queue FROM task_pauses)
)
SELECT count(*) FROM (
    SELECT 1 FROM wanted CROSS JOIN tasks ON tasks.queue = wanted.queue WHERE state = 'queued'
    UNION ALL
    SELECT 1 FROM tasks WHERE state = 'scheduled' AND due_us <= :now_us AND queue IN wanted
    UNION ALL
    SELECT 1 FROM tasks WHERE state = 'retrying' AND due_us <= :now_us AND queue IN wanted
    LIMIT :tasks_max
)
