DELETE FROM model
WHERE id = :model_id AND epoch = :epoch
RETURNING id
