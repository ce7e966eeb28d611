SELECT runs
FROM flow_finished
WHERE name = ?
