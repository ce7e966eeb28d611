SELECT first_offset, next_offset, rows, size_bytes, checksum, first_us, last_us, segment_id, position, inline
FROM frame WHERE partition_id = ? ORDER BY first_offset
