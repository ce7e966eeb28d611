DELETE FROM flow_member
WHERE flow_id = ?
