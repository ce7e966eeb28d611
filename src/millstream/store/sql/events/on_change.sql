CREATE TRIGGER task_events_on_change AFTER UPDATE OF state ON tasks WHEN NEW.state <> OLD.state
BEGIN
    -- Of a task that runs, OLD still counts the attempt that is over as the one that runs.
    INSERT INTO task_events (at_us, id, name, queue, before, after, attempt, worker)
    VALUES (
        tx_now_us(), NEW.id, NEW.name, NEW.queue, OLD.state, NEW.state,
        CASE
            WHEN OLD.state = 'running' THEN OLD.attempts_before + OLD.failures + OLD.deaths + 1
            ELSE NEW.attempts_before + NEW.failures + NEW.deaths + 1
        END,
        (SELECT worker FROM task_workers WHERE lease = coalesce(NEW.lease, OLD.lease))
    );
    SELECT tx_wake('task-events');
END
