-- Time limits of one call, microseconds of each attempt; NULL leaves it to the task.
ALTER TABLE tasks ADD COLUMN soft_time_limit_us INTEGER;
ALTER TABLE tasks ADD COLUMN time_limit_us INTEGER;
