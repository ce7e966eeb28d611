SELECT lease, process, worker, queues, joined_us, beaten_us, told, profile
FROM task_workers LEFT JOIN task_worker_profiles USING (lease)
ORDER BY lease
