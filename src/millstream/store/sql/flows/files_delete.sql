DELETE FROM flow_file
WHERE flow_id = ?
