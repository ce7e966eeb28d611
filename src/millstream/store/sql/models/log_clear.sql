DELETE FROM model_log
WHERE model_id = ?
