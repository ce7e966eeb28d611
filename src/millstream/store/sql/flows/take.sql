UPDATE flow
SET epoch = epoch + 1, owner = :owner, fingerprint = :fingerprint
WHERE id = :flow_id
RETURNING epoch
