SELECT first_offset, next_offset, rows, size_bytes, checksum, first_us, last_us, segment_id, position, inline
FROM frame
WHERE partition_id = ?1 AND first_offset >= coalesce(
    (SELECT max(first_offset) FROM frame WHERE partition_id = ?1 AND first_offset <= ?2), ?2
)
ORDER BY first_offset
LIMIT ?3
