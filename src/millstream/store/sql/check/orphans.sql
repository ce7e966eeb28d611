SELECT 'a partition without its topic' AS what, 'partition ' || id AS place
FROM partition WHERE topic_id NOT IN (SELECT id FROM topic)
UNION ALL
SELECT 'a topic without partitions', 'topic ' || name
FROM topic WHERE id NOT IN (SELECT topic_id FROM partition)
UNION ALL
SELECT 'a topic without columns', 'topic ' || name
FROM topic WHERE id NOT IN (SELECT topic_id FROM topic_schema)
UNION ALL
SELECT 'columns without their topic', 'topic_schema ' || id
FROM topic_schema WHERE topic_id NOT IN (SELECT id FROM topic)
UNION ALL
SELECT 'a frame without its partition', 'frame ' || partition_id || ', offset ' || first_offset
FROM frame WHERE partition_id NOT IN (SELECT id FROM partition)
UNION ALL
SELECT 'a frame without its segment', 'partition ' || partition_id || ', offset ' || first_offset
FROM frame AS f WHERE f.segment_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM segment AS s WHERE s.id = f.segment_id AND s.partition_id = f.partition_id
)
UNION ALL
SELECT 'a group without its topic', 'group ' || name
FROM consumer_group WHERE topic_id NOT IN (SELECT id FROM topic)
UNION ALL
SELECT 'a member without its group', 'member ' || id
FROM group_member WHERE group_id NOT IN (SELECT id FROM consumer_group)
UNION ALL
SELECT 'a position without its group or partition', 'group ' || group_id || ', partition ' || partition_id
FROM group_partition
WHERE group_id NOT IN (SELECT id FROM consumer_group) OR partition_id NOT IN (SELECT id FROM partition)
UNION ALL
SELECT 'a partition owned by nobody in the group', 'group ' || gp.group_id || ', partition ' || gp.partition_id
FROM group_partition AS gp WHERE gp.owner IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM group_member AS m WHERE m.id = gp.owner AND m.group_id = gp.group_id
)
UNION ALL
SELECT 'a remembered batch without its producer or partition', 'producer ' || producer_id || ', partition ' || partition_id
FROM producer_batch
WHERE producer_id NOT IN (SELECT id FROM producer) OR partition_id NOT IN (SELECT id FROM partition)
UNION ALL
SELECT 'a remembered batch that cannot have been stored', 'producer ' || b.producer_id || ', partition ' || b.partition_id
FROM producer_batch AS b JOIN producer AS r ON r.id = b.producer_id JOIN partition AS p ON p.id = b.partition_id
WHERE b.first_sequence > b.last_sequence OR b.epoch > r.epoch
    OR b.first_offset >= b.next_offset OR b.next_offset > p.next_offset
