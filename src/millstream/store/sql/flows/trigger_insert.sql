INSERT INTO flow_trigger (name, anchor_us, seen)
VALUES (?, ?, ?)
ON CONFLICT (name) DO NOTHING
