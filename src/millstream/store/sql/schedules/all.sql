SELECT name, owner, times, missed, task, queue, anchor_us, next_us, last_us, runs, skipped, paused_us, why, retired_us, message
FROM schedules ORDER BY name
