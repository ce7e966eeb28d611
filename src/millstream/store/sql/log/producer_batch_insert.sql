INSERT INTO producer_batch (producer_id, partition_id, last_sequence, first_sequence, epoch, first_offset, next_offset)
VALUES (?, ?, ?, ?, ?, ?, ?)
