UPDATE tasks SET state = ?, lease = NULL, alone = ?, deaths = deaths + ?
WHERE seq = ? AND state = 'running' AND lease = ?
