INSERT INTO model (name, estimator, library, declaration, epoch, owner, figures, flow, updated_us)
VALUES (:name, :estimator, :library, :declaration, 1, :owner, :figures, :flow, :now_us)
RETURNING id
