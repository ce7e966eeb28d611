DELETE FROM flow_input
WHERE flow_id = ?
