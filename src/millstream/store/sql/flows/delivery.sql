SELECT number, target, crc, payload, done
FROM flow_delivery
WHERE flow_id = ?
