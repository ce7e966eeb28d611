SELECT name, owner, times, missed, task, queue, anchor_us, next_us, last_us, runs, skipped, paused_us, why, retired_us, message
FROM schedules
WHERE next_us <= :now_us AND paused_us IS NULL AND retired_us IS NULL
ORDER BY next_us LIMIT :schedules_max
