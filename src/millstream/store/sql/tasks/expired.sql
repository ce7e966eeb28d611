SELECT EXISTS (SELECT 1 FROM tasks WHERE expires_us <= ?)
