SELECT g.name, t.name, p.number, gp.position, p.next_offset
FROM group_partition AS gp
JOIN consumer_group AS g ON g.id = gp.group_id
JOIN partition AS p ON p.id = gp.partition_id
JOIN topic AS t ON t.id = p.topic_id
WHERE gp.position NOT BETWEEN 0 AND p.next_offset
