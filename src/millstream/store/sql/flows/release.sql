UPDATE flow
SET owner = NULL
WHERE id = :flow_id AND epoch = :epoch
