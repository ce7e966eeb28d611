DELETE FROM flow_unit
WHERE flow_id = ?
