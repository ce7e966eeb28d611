SELECT seq, at_us, id, name, queue, before, after, attempt, worker FROM task_events
WHERE seq > ? ORDER BY seq LIMIT ?
