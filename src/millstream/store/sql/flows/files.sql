SELECT partial, final
FROM flow_file
WHERE flow_id = ?
ORDER BY id
