SELECT id, partition_id, sealed FROM segment ORDER BY id
