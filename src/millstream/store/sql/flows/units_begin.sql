UPDATE flow_unit
SET ended = 0
WHERE flow_id = ?
