-- The newest one always stays: the next number follows from it.
DELETE FROM task_events WHERE seq <= (SELECT max(seq) FROM task_events) - ?
