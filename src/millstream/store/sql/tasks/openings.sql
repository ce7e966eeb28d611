-- One that is further ahead than its interval was stored before the clock was set back.
SELECT key FROM task_limits
WHERE opens_us IS NOT NULL AND (opens_us <= :now_us OR opens_us > :now_us + interval_us)
LIMIT :limits_max
