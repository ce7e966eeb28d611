DELETE FROM flow
WHERE id = :flow_id AND epoch = :epoch
RETURNING id
