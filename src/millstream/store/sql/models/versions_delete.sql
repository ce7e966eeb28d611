DELETE FROM model_version
WHERE model_id = :model_id AND version <= :last AND version <> :version
