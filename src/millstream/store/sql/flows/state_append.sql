INSERT INTO flow_state (flow_id, stage, groups, checksum, data)
VALUES (?, ?, ?, ?, ?)
