INSERT INTO task_pauses (queue, paused_us) VALUES (?, ?) ON CONFLICT (queue) DO NOTHING
