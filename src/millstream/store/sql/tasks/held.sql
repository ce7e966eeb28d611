SELECT seq, failures + deaths + 1 FROM tasks WHERE state = 'running' AND lease = ?
