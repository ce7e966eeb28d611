DROP TRIGGER IF EXISTS task_events_on_delete
