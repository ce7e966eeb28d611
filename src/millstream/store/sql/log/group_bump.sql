UPDATE consumer_group SET generation = generation + 1 WHERE id = ? RETURNING generation
