SELECT
    p.id, t.name, t.retention_us, t.retention_bytes, t.compaction,
    p.first_offset, p.next_offset, p.size_bytes, p.merged_to, p.compacted_to
FROM partition AS p JOIN topic AS t ON t.id = p.topic_id
ORDER BY p.id
