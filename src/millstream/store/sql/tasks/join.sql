INSERT INTO task_workers (process, worker, queues, lease_us, joined_us)
VALUES (?, ?, ?, ?, ?)
RETURNING lease
