SELECT coalesce((SELECT max(seq) FROM task_events) - (SELECT min(seq) FROM task_events), 0) >= ?
