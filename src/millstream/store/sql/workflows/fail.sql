UPDATE workflow_nodes SET state = 'failed', error = ?, finished_us = ? WHERE seq = ?
