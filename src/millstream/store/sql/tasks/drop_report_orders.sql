DELETE FROM task_orders WHERE lease = ? AND kind = 'report'
