UPDATE partition SET next_offset = next_offset + ?, size_bytes = size_bytes + ? WHERE id = ? RETURNING next_offset
