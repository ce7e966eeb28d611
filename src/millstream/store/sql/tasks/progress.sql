SELECT task_progress.state, task_progress.updated_us, task_progress.meta
FROM tasks JOIN task_progress ON task_progress.task = tasks.seq
WHERE tasks.id = ? AND tasks.finished_us IS NULL
