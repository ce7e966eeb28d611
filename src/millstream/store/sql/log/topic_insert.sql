INSERT INTO topic (name, typed, key, retention_us, retention_bytes, compaction, created_us)
VALUES (:name, :typed, :key, :retention_us, :retention_bytes, :compaction, :now_us)
RETURNING id
