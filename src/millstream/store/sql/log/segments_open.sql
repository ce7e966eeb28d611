SELECT
    s.id, s.partition_id, s.owner,
    coalesce((
        SELECT max(f.position + f.size_bytes) FROM frame AS f
        WHERE f.partition_id = s.partition_id AND f.segment_id = s.id
    ), 0)
FROM segment AS s
WHERE s.sealed = 0
