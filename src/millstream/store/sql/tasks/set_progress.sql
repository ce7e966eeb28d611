INSERT INTO task_progress (task, state, updated_us, meta)
SELECT seq, :told, :now_us, :meta FROM tasks
WHERE seq = :seq AND state = 'running' AND lease = :lease
    AND attempts_before + failures + deaths + 1 = :attempt
ON CONFLICT (task) DO UPDATE SET state = excluded.state, updated_us = excluded.updated_us, meta = excluded.meta
RETURNING task
