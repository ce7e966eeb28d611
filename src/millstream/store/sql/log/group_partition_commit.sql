UPDATE group_partition SET position = ? WHERE group_id = ? AND partition_id = ? AND owner = ? AND epoch = ?
RETURNING partition_id
