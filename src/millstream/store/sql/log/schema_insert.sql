INSERT INTO topic_schema (topic_id, arrow) VALUES (?, ?) RETURNING id
