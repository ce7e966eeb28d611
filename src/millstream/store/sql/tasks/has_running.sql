SELECT EXISTS (
    SELECT 1 FROM tasks
    WHERE state = 'running' AND queue IN (SELECT value FROM json_each(?))
)
