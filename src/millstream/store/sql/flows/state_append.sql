INSERT INTO flow_state (flow_id, groups, checksum, data)
VALUES (?, ?, ?, ?)
