SELECT stage, closed_until_us
FROM flow_stage
WHERE flow_id = ?
