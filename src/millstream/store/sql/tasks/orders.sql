SELECT content FROM task_orders WHERE lease = ? ORDER BY id
