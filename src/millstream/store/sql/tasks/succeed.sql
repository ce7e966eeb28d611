UPDATE tasks SET state = ?, lease = NULL, result = ?, finished_us = ?, expires_us = ?
WHERE seq = ? AND state = 'running' AND lease = ?
