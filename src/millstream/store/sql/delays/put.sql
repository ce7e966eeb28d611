INSERT OR REPLACE INTO delay (kind, subject, minute, source_wait, start_wait, process, publish)
VALUES (?, ?, ?, ?, ?, ?, ?)
