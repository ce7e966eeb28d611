CREATE TRIGGER task_events_on_delete AFTER DELETE ON tasks WHEN OLD.finished_us IS NULL
BEGIN
    -- A task that runs is deleted when it returns and its result is not kept; one that waits when it is purged.
    INSERT INTO task_events (at_us, id, name, queue, before, after, attempt, worker)
    VALUES (
        tx_now_us(), OLD.id, OLD.name, OLD.queue, OLD.state,
        CASE WHEN OLD.state = 'running' THEN 'succeeded' END,
        OLD.attempts_before + OLD.failures + OLD.deaths + 1,
        (SELECT worker FROM task_workers WHERE lease = OLD.lease)
    );
    SELECT tx_wake('task-events');
END
