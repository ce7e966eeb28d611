SELECT EXISTS (SELECT 1 FROM tasks WHERE state = 'queued' AND queue = ?)
