SELECT data
FROM model_part
WHERE model_id = ? AND version = ?
ORDER BY id
