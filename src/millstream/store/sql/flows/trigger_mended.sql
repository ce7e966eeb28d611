UPDATE flow_trigger
SET turn = turn + 1, failures = 0, retry_us = NULL, error = NULL
WHERE name = ? AND turn = ?
RETURNING turn
