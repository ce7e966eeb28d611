SELECT max(next_offset), sum(size_bytes) FROM (
    SELECT next_offset, size_bytes, sum(size_bytes) OVER (ORDER BY first_offset DESC) AS kept
    FROM frame WHERE partition_id = ?
) WHERE kept - size_bytes >= ?
