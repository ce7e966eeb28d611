DELETE FROM tasks WHERE seq = ? AND state = 'running' AND lease = ?
