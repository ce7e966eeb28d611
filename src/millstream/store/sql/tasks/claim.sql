UPDATE tasks SET state = ?, lease = ? WHERE seq = ? AND state = 'queued'
