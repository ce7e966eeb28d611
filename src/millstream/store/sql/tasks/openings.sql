SELECT key FROM task_limits WHERE opens_us IS NOT NULL AND opens_us <= ? LIMIT ?
