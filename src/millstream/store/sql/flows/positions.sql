SELECT topic_id, partition, next_offset, seen_us
FROM flow_position
WHERE flow_id = ?
