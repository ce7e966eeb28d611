SELECT number, target, crc, payload
FROM flow_delivery
WHERE flow_id = ?
