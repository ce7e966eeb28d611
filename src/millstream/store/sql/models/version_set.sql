UPDATE model
SET version = :version
WHERE id = :model_id
