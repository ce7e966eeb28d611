UPDATE workflow_nodes SET kind = 'chain', remaining = 1, call = NULL WHERE seq = ?
