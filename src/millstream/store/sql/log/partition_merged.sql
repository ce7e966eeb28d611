UPDATE partition SET merged_to = ? WHERE id = ?
