DELETE FROM flow_state
WHERE flow_id = ? AND stage = ?
