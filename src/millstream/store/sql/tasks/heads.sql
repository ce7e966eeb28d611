SELECT priority, seq, alone, id, name, arguments, failures, deaths, enqueued_us, due_us, eta_us
FROM tasks
WHERE state = 'queued' AND queue = ?
ORDER BY priority DESC, seq
LIMIT ?
