INSERT INTO flow_position (flow_id, topic_id, partition, next_offset, seen_us)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT (flow_id, topic_id, partition)
DO UPDATE SET next_offset = excluded.next_offset, seen_us = excluded.seen_us
