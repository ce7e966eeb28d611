UPDATE tasks SET state = ?, gate = NULL
WHERE seq IN (
    SELECT seq FROM tasks WHERE gate = ? AND gate IS NOT NULL ORDER BY priority DESC, seq LIMIT ?
)
RETURNING queue
