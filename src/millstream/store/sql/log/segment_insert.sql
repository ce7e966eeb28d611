INSERT INTO segment (partition_id, owner, created_us) VALUES (?, ?, ?) RETURNING id
