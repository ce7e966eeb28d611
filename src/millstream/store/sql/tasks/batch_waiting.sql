SELECT
    (SELECT count(*) FROM tasks WHERE gate = :key AND gate IS NOT NULL),
    (SELECT opens_us FROM task_limits WHERE key = :key)
