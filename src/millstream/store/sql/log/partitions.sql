SELECT id, number, first_offset, next_offset, size_bytes FROM partition WHERE topic_id = ? ORDER BY number
