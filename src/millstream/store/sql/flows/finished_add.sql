INSERT INTO flow_finished (name, runs, last_us)
VALUES (?1, 1, ?2)
ON CONFLICT (name) DO UPDATE SET runs = runs + 1, last_us = excluded.last_us
