DELETE FROM flow_delivery
WHERE flow_id = ?
