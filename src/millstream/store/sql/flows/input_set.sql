INSERT INTO flow_input (flow_id, path, size_bytes, modified_us, rows_read, is_done)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (flow_id, path)
DO UPDATE SET
    size_bytes = excluded.size_bytes,
    modified_us = excluded.modified_us,
    rows_read = excluded.rows_read,
    is_done = excluded.is_done
