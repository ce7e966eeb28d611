SELECT id FROM segment WHERE id = ?
