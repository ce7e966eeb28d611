INSERT INTO task_deadlines (start_before_us, task) VALUES (?, ?) ON CONFLICT (start_before_us, task) DO NOTHING
