SELECT epoch FROM producer WHERE id = ?
