UPDATE schedules SET paused_us = coalesce(paused_us, :now_us), why = :why WHERE name = :name RETURNING name
