UPDATE topic SET retention_us = :retention_us, retention_bytes = :retention_bytes, compaction = :compaction
WHERE id = :id
