UPDATE tasks SET revoke_reason = coalesce(revoke_reason, ?), terminate = max(terminate, ?)
WHERE seq = ? AND state = 'running'
