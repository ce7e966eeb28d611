UPDATE group_partition SET owner = NULL WHERE group_id = ? AND owner = ?
