UPDATE segment SET sealed = 1 WHERE id = ?
