UPDATE schedules SET paused_us = NULL, why = NULL, next_us = :next_us WHERE name = :name
