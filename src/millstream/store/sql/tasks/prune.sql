DELETE FROM tasks
WHERE seq IN (SELECT seq FROM tasks WHERE expires_us <= ? ORDER BY expires_us LIMIT ?)
