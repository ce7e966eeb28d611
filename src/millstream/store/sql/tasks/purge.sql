DELETE FROM tasks WHERE seq = ? AND state <> 'running' RETURNING id, state, lock_key, limit_key
