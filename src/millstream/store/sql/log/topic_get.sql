SELECT id, name, typed, key, retention_us, retention_bytes, compaction FROM topic WHERE name = ?
