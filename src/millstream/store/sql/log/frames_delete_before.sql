DELETE FROM frame WHERE partition_id = ? AND next_offset <= ?
