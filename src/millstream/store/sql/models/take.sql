UPDATE model
SET epoch = epoch + 1, owner = :owner, flow = :flow
WHERE id = :model_id
RETURNING epoch
