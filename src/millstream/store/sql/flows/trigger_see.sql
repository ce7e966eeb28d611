UPDATE flow_trigger
SET seen = :seen, turn = turn + 1
WHERE name = :name AND turn = :turn
RETURNING turn
