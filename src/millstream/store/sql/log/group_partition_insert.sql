INSERT INTO group_partition (group_id, partition_id) VALUES (?, ?) ON CONFLICT DO NOTHING
