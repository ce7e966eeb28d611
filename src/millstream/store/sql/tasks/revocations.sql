SELECT seq, id, revoke_reason, terminate FROM tasks
WHERE state = 'running' AND lease = ? AND revoke_reason IS NOT NULL
