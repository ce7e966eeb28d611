UPDATE tasks SET state = ?, due_us = ? WHERE seq = ? AND state IN ('scheduled', 'retrying')
