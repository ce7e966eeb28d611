WITH RECURSIVE above (id, parent, kind, height) AS (
    SELECT node.id, node.parent, node.kind, 0 FROM workflow_nodes AS node
    JOIN workflow_nodes AS step ON node.seq = step.parent
    WHERE step.id = :id
    UNION ALL
    SELECT node.id, node.parent, node.kind, height + 1 FROM workflow_nodes AS node
    JOIN above ON node.seq = above.parent
)
SELECT
    root.id,
    (SELECT id FROM above WHERE kind = 'group' ORDER BY height LIMIT 1)
FROM workflow_nodes AS step
JOIN workflow_nodes AS root ON root.seq = step.root
WHERE step.id = :id
