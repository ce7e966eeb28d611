INSERT INTO task_workers (process, worker, queues, lease_us, joined_us, beaten_us)
VALUES (:process, :worker, :queues, :lease_us, :now_us, :now_us)
RETURNING lease
