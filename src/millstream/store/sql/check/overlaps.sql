SELECT partition_id, segment_id, position FROM (
    SELECT
        partition_id, segment_id, position,
        lag(position + size_bytes) OVER (PARTITION BY segment_id ORDER BY position, first_offset) AS free_from
    FROM frame WHERE segment_id IS NOT NULL
) WHERE position < free_from
