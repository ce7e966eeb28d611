UPDATE tasks
SET state = :state, lease = NULL, failures = failures + 1, finished_us = :now_us, expires_us = :now_us + :kept_us
WHERE seq = :seq AND state = 'running' AND lease = :lease
