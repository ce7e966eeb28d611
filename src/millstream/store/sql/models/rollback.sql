UPDATE model
SET version = :version,
    revision = revision + 1,
    rows = :rows,
    waiting = :waiting,
    figures = :figures,
    updated_us = :now_us
WHERE id = :model_id
