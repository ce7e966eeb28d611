UPDATE schedules SET retired_us = ? WHERE name = ? AND retired_us IS NULL
