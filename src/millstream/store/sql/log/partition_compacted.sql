UPDATE partition SET compacted_to = ? WHERE id = ?
