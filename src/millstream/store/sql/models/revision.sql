SELECT revision
FROM model
WHERE id = ?
