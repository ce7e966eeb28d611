UPDATE partition SET first_offset = max(first_offset, ?), size_bytes = size_bytes - ? WHERE id = ?
