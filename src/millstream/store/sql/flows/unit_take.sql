UPDATE flow_unit
SET member = ?, ended = 0
WHERE unit_id = ?
