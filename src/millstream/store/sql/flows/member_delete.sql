DELETE FROM flow_member
WHERE member = ?
