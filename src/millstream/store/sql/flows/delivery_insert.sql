INSERT INTO flow_delivery (flow_id, target, crc, payload)
VALUES (?, ?, ?, ?)
RETURNING number
