SELECT anchor_us, seen, turn, runs, last_us, failures, retry_us, error
FROM flow_trigger
WHERE name = ?
