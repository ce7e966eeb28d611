SELECT coalesce(max(seq), 0) FROM task_events
