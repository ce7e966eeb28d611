DELETE FROM topic WHERE id = ?
