SELECT
    queue, state, count(*), min(due_us), sum(enqueued_us > :since_us), sum(coalesce(finished_us, 0) > :since_us)
FROM tasks
GROUP BY queue, state
