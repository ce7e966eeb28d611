DELETE FROM task_pauses WHERE queue = ? RETURNING queue
