UPDATE task_limits SET opens_us = ? WHERE key = ?
