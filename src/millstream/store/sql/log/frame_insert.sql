INSERT INTO frame (
    partition_id, first_offset, next_offset, rows, size_bytes, checksum, first_us, last_us, segment_id, position, inline
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
