SELECT count(*), coalesce(sum(size_bytes), 0) FROM frame WHERE partition_id = ? AND first_offset >= ? AND first_offset < ?
