UPDATE group_partition SET owner = NULL WHERE group_id = ? AND partition_id = ? AND owner = ?
