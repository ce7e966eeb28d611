INSERT INTO task_uniques (key, task, until_us) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET task = excluded.task, until_us = excluded.until_us
