SELECT lease, process, worker, beats, lease_us FROM task_workers
