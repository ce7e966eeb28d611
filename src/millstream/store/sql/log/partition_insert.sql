INSERT INTO partition (topic_id, number) VALUES (?, ?)
