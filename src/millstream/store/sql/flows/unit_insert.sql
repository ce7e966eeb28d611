INSERT INTO flow_unit (unit_id, flow_id, number)
VALUES (?, ?, ?)
