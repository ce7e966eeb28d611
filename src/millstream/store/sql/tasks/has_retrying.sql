SELECT EXISTS (
    SELECT 1 FROM tasks
    WHERE state = 'retrying' AND queue IN (SELECT value FROM json_each(?))
)
