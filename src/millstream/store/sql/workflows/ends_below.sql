SELECT state, value, error FROM workflow_nodes WHERE parent = ? AND role = 'member' ORDER BY position
