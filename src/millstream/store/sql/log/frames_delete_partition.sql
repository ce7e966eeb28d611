DELETE FROM frame WHERE partition_id = ?
