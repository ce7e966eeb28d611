SELECT name FROM consumer_group WHERE id = ?
