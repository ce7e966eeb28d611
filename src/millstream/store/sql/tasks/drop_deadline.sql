DELETE FROM task_deadlines WHERE start_before_us = ? AND task = ?
