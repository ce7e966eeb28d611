UPDATE tasks SET state = ?, gate = ? WHERE seq = ? AND state = 'queued'
