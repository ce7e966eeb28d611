INSERT INTO task_limits (key, concurrency, interval_us) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET concurrency = excluded.concurrency, interval_us = excluded.interval_us
WHERE concurrency IS NOT excluded.concurrency OR interval_us IS NOT excluded.interval_us
