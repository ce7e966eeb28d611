UPDATE workflow_nodes SET state = 'succeeded', value = ?, finished_us = ? WHERE seq = ?
