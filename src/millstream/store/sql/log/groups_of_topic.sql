SELECT id, name, generation FROM consumer_group WHERE topic_id = ? ORDER BY name
