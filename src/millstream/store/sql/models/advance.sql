UPDATE model
SET rows = :rows,
    waiting = :waiting,
    unlabelled = unlabelled + :unlabelled,
    incomplete = incomplete + :incomplete,
    figures = :figures,
    updated_us = :now_us
WHERE id = :model_id
