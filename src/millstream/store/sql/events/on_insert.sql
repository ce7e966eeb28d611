CREATE TRIGGER task_events_on_insert AFTER INSERT ON tasks
BEGIN
    INSERT INTO task_events (at_us, id, name, queue, after, attempt)
    VALUES (tx_now_us(), NEW.id, NEW.name, NEW.queue, NEW.state, 1);
    SELECT tx_wake('task-events');
END
