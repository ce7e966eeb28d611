SELECT task FROM task_uniques
WHERE key = :key
    AND (until_us > :now_us OR EXISTS (SELECT 1 FROM tasks WHERE id = task_uniques.task AND finished_us IS NULL))
