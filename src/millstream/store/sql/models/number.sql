UPDATE model
SET versions = versions + 1
WHERE id = ?
RETURNING versions
