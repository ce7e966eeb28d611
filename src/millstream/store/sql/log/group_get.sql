SELECT id, generation FROM consumer_group WHERE name = ? AND topic_id = ?
