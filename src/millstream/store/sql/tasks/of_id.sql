SELECT seq, state, queue, lease, lock_key, limit_key FROM tasks WHERE id = ?
