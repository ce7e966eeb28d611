UPDATE flow_trigger
SET seen = :seen, turn = turn + 1, runs = runs + 1, last_us = :last_us, failures = 0, retry_us = NULL, error = NULL
WHERE name = :name AND turn = :turn
RETURNING turn
