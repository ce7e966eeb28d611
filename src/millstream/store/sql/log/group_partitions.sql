SELECT partition_id, position, owner, target, epoch FROM group_partition WHERE group_id = ? ORDER BY partition_id
