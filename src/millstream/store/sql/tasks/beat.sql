UPDATE task_workers SET beats = beats + 1, beaten_us = :now_us, told = :told WHERE lease = :lease RETURNING lease
