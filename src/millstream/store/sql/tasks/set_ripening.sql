INSERT INTO task_limits (key, opens_us) VALUES (:key, :opens_us)
ON CONFLICT (key) DO UPDATE SET opens_us = :opens_us
