WITH RECURSIVE skipped (seq) AS (
    SELECT seq FROM workflow_nodes WHERE parent = :parent AND role = 'member'
    UNION ALL
    SELECT below.seq FROM workflow_nodes AS below JOIN skipped ON below.parent = skipped.seq WHERE below.role = 'member'
)
UPDATE workflow_nodes SET state = 'failed', error = :error, finished_us = :now_us
WHERE seq IN (SELECT seq FROM skipped) AND state = 'waiting'
RETURNING id
