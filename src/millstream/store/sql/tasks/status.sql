SELECT seq, name, queue, priority, state, enqueued_us, due_us, failures, deaths, finished_us, result
FROM tasks WHERE id = ?
