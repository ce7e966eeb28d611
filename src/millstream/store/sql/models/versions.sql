SELECT version, made_us, rows, waiting, figures, size_bytes, checksum
FROM model_version
WHERE model_id = ?
ORDER BY version
