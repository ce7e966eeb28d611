SELECT seq, id, root, parent, role, position, kind, state, remaining, name, queue, created_us, finished_us, call, value, error
FROM workflow_nodes WHERE id = ?
