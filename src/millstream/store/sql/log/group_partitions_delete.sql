DELETE FROM group_partition WHERE group_id = ?
