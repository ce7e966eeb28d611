UPDATE task_limits SET next_us = ? WHERE key = ?
