DELETE FROM segment WHERE id = ?
