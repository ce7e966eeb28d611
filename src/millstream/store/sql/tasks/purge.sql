DELETE FROM tasks WHERE seq = ? AND state <> 'running' RETURNING id, lock_key, limit_key
