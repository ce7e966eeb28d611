UPDATE flow_unit
SET member = NULL, ended = ?
WHERE unit_id = ? AND member = ?
