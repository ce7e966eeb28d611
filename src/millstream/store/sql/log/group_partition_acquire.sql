UPDATE group_partition SET owner = ?1, epoch = epoch + 1
WHERE group_id = ?2 AND partition_id = ?3 AND owner IS NULL AND target = ?1
RETURNING epoch, position
