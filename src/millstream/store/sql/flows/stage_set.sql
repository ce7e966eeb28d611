INSERT INTO flow_stage (flow_id, stage, closed_until_us)
VALUES (?, ?, ?)
ON CONFLICT (flow_id, stage)
DO UPDATE SET closed_until_us = excluded.closed_until_us
