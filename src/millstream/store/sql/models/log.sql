SELECT rows, checksum, data
FROM model_log
WHERE model_id = ?
ORDER BY id
