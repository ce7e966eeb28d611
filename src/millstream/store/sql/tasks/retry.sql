UPDATE tasks SET state = ?, lease = NULL, failures = failures + 1, due_us = ?
WHERE seq = ? AND state = 'running' AND lease = ?
