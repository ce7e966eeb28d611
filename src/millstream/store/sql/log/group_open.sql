INSERT INTO consumer_group (name, topic_id) VALUES (?, ?)
ON CONFLICT (name, topic_id) DO UPDATE SET generation = generation
RETURNING id, generation
