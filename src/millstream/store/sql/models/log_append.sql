INSERT INTO model_log (model_id, rows, checksum, data)
VALUES (?, ?, ?, ?)
