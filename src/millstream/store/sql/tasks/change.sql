UPDATE tasks SET
    arguments = coalesce(?, arguments), queue = coalesce(?, queue), priority = coalesce(?, priority)
WHERE seq = ? AND state = 'running' AND lease = ?
