DELETE FROM topic_schema WHERE topic_id = ?
