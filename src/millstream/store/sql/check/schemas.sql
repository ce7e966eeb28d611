SELECT s.id, p.id FROM topic_schema AS s JOIN partition AS p ON p.topic_id = s.topic_id
