DELETE FROM group_member WHERE id = ?
