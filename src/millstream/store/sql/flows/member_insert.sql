INSERT INTO flow_member (flow_id, member, process)
VALUES (?, ?, ?)
