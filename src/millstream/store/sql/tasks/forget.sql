DELETE FROM tasks WHERE id = ? AND finished_us IS NOT NULL RETURNING seq
