UPDATE workflow_nodes
SET open = open + :change, expires_us = CASE WHEN open + :change = 0 THEN :expires_us END
WHERE seq = :root
