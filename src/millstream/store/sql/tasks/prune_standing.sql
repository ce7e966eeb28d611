DELETE FROM task_uniques
WHERE key IN (
    SELECT key FROM task_uniques
    WHERE until_us <= :now_us
        AND NOT EXISTS (SELECT 1 FROM tasks WHERE id = task_uniques.task AND finished_us IS NULL)
    ORDER BY until_us LIMIT :keys_max
)
