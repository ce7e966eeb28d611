INSERT INTO group_partition (group_id, partition_id, position) VALUES (?1, ?2, ?3)
ON CONFLICT (group_id, partition_id) DO UPDATE SET position = ?3, epoch = epoch + 1
