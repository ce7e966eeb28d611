SELECT seq, attempts_before + failures + deaths + 1, revoke_reason FROM tasks
WHERE state = 'running' AND lease = ?
