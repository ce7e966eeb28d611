UPDATE tasks SET state = ?, lease = NULL, alone = 1, deaths = deaths + ?
WHERE seq = ? AND state = 'running' AND lease = ?
