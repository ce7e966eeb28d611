DELETE FROM frame WHERE partition_id = ? AND first_offset >= ? AND first_offset < ?
