SELECT seq, due_us FROM (
    SELECT seq, due_us, name, alone FROM tasks
    WHERE state = 'queued' AND queue = :queue
    ORDER BY priority DESC, seq
    LIMIT :searched_max
)
WHERE name = :name AND NOT alone
LIMIT :tasks_max
