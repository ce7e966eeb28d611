SELECT concurrency, interval_us, next_us, opens_us FROM task_limits WHERE key = ?
