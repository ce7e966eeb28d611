INSERT INTO tasks (id, name, queue, priority, state, arguments, acks_late, alone, eta_us, enqueued_us, due_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING
