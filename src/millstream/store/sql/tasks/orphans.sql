SELECT seq, id, queue, failures, deaths, acks_late, due_us FROM tasks
WHERE state = 'running' AND lease = ?
ORDER BY seq
