UPDATE workflow_nodes SET state = 'running' WHERE seq = ?
