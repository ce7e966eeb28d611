-- A stream may aggregate what it has aggregated: each aggregation, a stage, has a state of its own. The first is stage 0.
ALTER TABLE flow_state ADD COLUMN stage INTEGER NOT NULL DEFAULT 0;

-- Up to where the windows of the stages behind the first are closed; that of the first is in flow.
CREATE TABLE flow_stage (
    flow_id INTEGER NOT NULL,
    stage INTEGER NOT NULL,
    closed_until_us INTEGER NOT NULL,
    PRIMARY KEY (flow_id, stage)
) STRICT, WITHOUT ROWID;
