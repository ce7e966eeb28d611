INSERT INTO task_holders (key, task) VALUES (?, ?) ON CONFLICT (key, task) DO NOTHING
