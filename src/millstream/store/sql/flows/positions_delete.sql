DELETE FROM flow_position
WHERE flow_id = ?
