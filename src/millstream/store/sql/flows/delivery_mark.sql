UPDATE flow_delivery
SET done = :done
WHERE number = :number AND done = :before
RETURNING number
