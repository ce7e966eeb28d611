DELETE FROM task_orders WHERE lease = ? AND id = ?
