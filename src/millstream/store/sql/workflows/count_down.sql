UPDATE workflow_nodes SET remaining = remaining - 1 WHERE seq = ? RETURNING remaining
