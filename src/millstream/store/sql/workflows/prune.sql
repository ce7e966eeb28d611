DELETE FROM workflow_nodes
WHERE root IN (SELECT seq FROM workflow_nodes WHERE expires_us <= ? ORDER BY expires_us LIMIT ?)
