DELETE FROM schedules WHERE name = ? RETURNING name
