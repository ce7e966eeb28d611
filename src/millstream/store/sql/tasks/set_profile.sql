INSERT INTO task_worker_profiles (lease, profile) VALUES (?, ?)
