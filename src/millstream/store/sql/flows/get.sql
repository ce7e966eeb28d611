SELECT id, epoch, owner, fingerprint, closed_until_us, rows_in, rows_out, late, untimed, batches
FROM flow
WHERE name = ?
