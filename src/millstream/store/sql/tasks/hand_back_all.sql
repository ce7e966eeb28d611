UPDATE tasks SET state = ?, lease = NULL WHERE state = 'running' AND lease = ?
RETURNING queue, seq, lock_key, limit_key
