DELETE FROM flow_stage
WHERE flow_id = ?
