SELECT last_sequence, first_sequence, first_offset, next_offset FROM producer_batch
WHERE producer_id = ? AND partition_id = ? ORDER BY last_sequence DESC LIMIT ?
