SELECT id, process, session_until_us FROM group_member WHERE group_id = ? ORDER BY joined_us, id
