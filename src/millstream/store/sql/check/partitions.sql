SELECT
    p.id, coalesce(t.name, '?'), p.number, p.first_offset, p.next_offset, p.size_bytes, p.merged_to, p.compacted_to
FROM partition AS p LEFT JOIN topic AS t ON t.id = p.topic_id
ORDER BY p.id
