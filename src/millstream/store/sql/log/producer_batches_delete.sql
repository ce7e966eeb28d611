DELETE FROM producer_batch WHERE partition_id = ?
