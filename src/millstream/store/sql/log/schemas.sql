SELECT id, arrow FROM topic_schema WHERE topic_id = ? ORDER BY id
