UPDATE model
SET owner = NULL
WHERE id = :model_id AND epoch = :epoch
