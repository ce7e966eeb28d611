DELETE FROM producer_batch WHERE producer_id = ?1 AND partition_id = ?2 AND last_sequence < (
    SELECT last_sequence FROM producer_batch WHERE producer_id = ?1 AND partition_id = ?2
    ORDER BY last_sequence DESC LIMIT 1 OFFSET ?3
)
