SELECT revoke_reason FROM tasks WHERE seq = ?
