SELECT first_offset, next_offset, size_bytes, merged_to, compacted_to FROM partition WHERE id = ?
