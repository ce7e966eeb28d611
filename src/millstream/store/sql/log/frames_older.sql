SELECT max(next_offset), sum(size_bytes) FROM frame
WHERE partition_id = ?1 AND first_offset < coalesce(
    (SELECT min(first_offset) FROM frame WHERE partition_id = ?1 AND last_us >= ?2), 9223372036854775807
)
