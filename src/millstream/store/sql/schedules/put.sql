INSERT INTO schedules (name, owner, times, missed, task, queue, anchor_us, next_us, message)
VALUES (:name, :owner, :times, :missed, :task, :queue, :anchor_us, :next_us, :message)
ON CONFLICT (name) DO UPDATE SET
    owner = excluded.owner, times = excluded.times, missed = excluded.missed, task = excluded.task,
    queue = excluded.queue, anchor_us = excluded.anchor_us, next_us = excluded.next_us,
    message = excluded.message, retired_us = NULL
