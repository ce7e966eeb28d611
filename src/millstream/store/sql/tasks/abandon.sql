UPDATE tasks SET state = ?, lease = NULL, deaths = deaths + 1, finished_us = ?
WHERE seq = ? AND state = 'running' AND lease = ?
