UPDATE tasks SET state = :state
WHERE seq IN (
    SELECT seq FROM tasks
    WHERE state = 'retrying' AND due_us <= :now_us
    ORDER BY due_us LIMIT :tasks_max
)
