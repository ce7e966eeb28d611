SELECT 1 FROM frame WHERE partition_id = ? AND first_offset = ? AND segment_id = ?
