SELECT generation FROM consumer_group WHERE id = ?
