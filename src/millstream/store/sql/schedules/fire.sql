UPDATE schedules
SET next_us = :next_us, last_us = coalesce(:last_us, last_us), runs = runs + :runs, skipped = skipped + :skipped
WHERE name = :name AND next_us = :was_us AND times = :times AND message = :message
    AND paused_us IS NULL AND retired_us IS NULL
RETURNING name
