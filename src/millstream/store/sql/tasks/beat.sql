UPDATE task_workers SET beats = beats + 1 WHERE lease = ? RETURNING lease
