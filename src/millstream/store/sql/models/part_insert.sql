INSERT INTO model_part (model_id, version, data)
VALUES (?, ?, ?)
