INSERT INTO flow (name, epoch, owner, fingerprint, committed_us)
VALUES (:name, 1, :owner, :fingerprint, :now_us)
RETURNING id
