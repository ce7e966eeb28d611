-- Flows that several processes share. A unit is a flow of its own, on one partition of each source: it has a row in flow
-- with an owner and an epoch, and positions, state, files and deliveries under that row's id. flow_id is the flow that
-- was divided; its own row has no place and no state any more. member is who runs the unit; ended says that it was
-- left at the end of a bounded run, with everything closed.
CREATE TABLE flow_unit (
    unit_id INTEGER PRIMARY KEY,
    flow_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    member TEXT,
    ended INTEGER NOT NULL DEFAULT 0,
    UNIQUE (flow_id, number)
) STRICT;

-- Who shares a flow, in the order in which they came. A member whose process is dead counts no more, and is dropped by
-- the next one that comes.
CREATE TABLE flow_member (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    flow_id INTEGER NOT NULL,
    member TEXT NOT NULL UNIQUE,
    process TEXT NOT NULL
) STRICT;

CREATE INDEX flow_member_by_flow ON flow_member (flow_id);
