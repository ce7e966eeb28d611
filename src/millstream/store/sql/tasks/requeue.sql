UPDATE tasks
SET state = ?, attempts_before = attempts_before + failures + deaths, failures = 0, deaths = 0, alone = NOT acks_late,
    due_us = ?, finished_us = NULL, expires_us = NULL, start_before_us = NULL, revoke_reason = NULL, terminate = 0
WHERE seq = ? AND state IN ('failed', 'revoked')
