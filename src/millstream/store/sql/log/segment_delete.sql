DELETE FROM segment
WHERE id = ?1 AND NOT EXISTS (
    SELECT 1 FROM frame WHERE frame.partition_id = segment.partition_id AND frame.segment_id = segment.id
)
RETURNING id
