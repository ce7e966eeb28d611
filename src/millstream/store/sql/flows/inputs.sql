SELECT path, size_bytes, modified_us, rows_read, is_done
FROM flow_input
WHERE flow_id = ?
