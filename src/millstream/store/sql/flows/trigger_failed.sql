UPDATE flow_trigger
SET turn = turn + 1, failures = failures + 1, retry_us = :retry_us, error = :error
WHERE name = :name AND turn = :turn
RETURNING turn
