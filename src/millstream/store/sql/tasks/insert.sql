INSERT INTO tasks (
    id, name, queue, priority, state, arguments, acks_late, alone, eta_us, enqueued_us, due_us,
    start_before_us, lock_key, limit_key, soft_time_limit_us, time_limit_us
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING
