UPDATE tasks
SET state = :state, lease = NULL, gate = NULL, finished_us = :now_us, expires_us = :now_us + :kept_us,
    revoke_reason = coalesce(revoke_reason, :reason)
WHERE seq = :seq AND finished_us IS NULL
