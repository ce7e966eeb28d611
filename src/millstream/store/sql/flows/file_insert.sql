INSERT INTO flow_file (flow_id, partial, final)
VALUES (?, ?, ?)
