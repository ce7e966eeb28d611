UPDATE partition SET size_bytes = size_bytes + ? WHERE id = ?
