SELECT EXISTS (
    SELECT 1 FROM tasks
    WHERE gate IS NOT NULL AND queue IN (SELECT value FROM json_each(?))
)
