SELECT min(next_us) FROM schedules WHERE next_us IS NOT NULL AND paused_us IS NULL AND retired_us IS NULL
