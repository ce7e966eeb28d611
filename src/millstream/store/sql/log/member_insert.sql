INSERT INTO group_member (id, group_id, process, session_until_us, joined_us) VALUES (?, ?, ?, ?, ?)
