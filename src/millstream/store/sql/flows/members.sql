SELECT member, process
FROM flow_member
WHERE flow_id = ?
ORDER BY number
