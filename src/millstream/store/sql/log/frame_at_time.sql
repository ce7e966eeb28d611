SELECT first_offset FROM frame WHERE partition_id = ? AND last_us >= ? ORDER BY first_offset LIMIT 1
