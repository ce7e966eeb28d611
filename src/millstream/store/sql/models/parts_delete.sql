DELETE FROM model_part
WHERE model_id = :model_id AND version <= :last AND version <> :version
