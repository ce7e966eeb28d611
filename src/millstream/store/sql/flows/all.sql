SELECT name, epoch, owner, closed_until_us, rows_in, rows_out, late, untimed, batches, committed_us
FROM flow
ORDER BY name
