UPDATE tasks SET state = ?, lease = NULL WHERE seq = ? AND state = 'running' AND lease = ?
RETURNING queue, seq, lock_key, limit_key
