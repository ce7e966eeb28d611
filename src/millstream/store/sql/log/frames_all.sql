SELECT first_offset, next_offset, rows, size_bytes, checksum, segment_id, position
FROM frame WHERE partition_id = ? ORDER BY first_offset
