SELECT s.id, s.partition_id
FROM segment AS s
WHERE s.sealed = 1 AND NOT EXISTS (
    SELECT 1 FROM frame AS f WHERE f.partition_id = s.partition_id AND f.segment_id = s.id
)
