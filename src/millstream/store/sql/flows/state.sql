SELECT stage, groups, checksum, data
FROM flow_state
WHERE flow_id = ?
ORDER BY id
