SELECT arguments FROM tasks WHERE id = ?
