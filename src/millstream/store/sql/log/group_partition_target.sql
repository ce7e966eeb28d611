UPDATE group_partition SET target = ? WHERE group_id = ? AND partition_id = ?
