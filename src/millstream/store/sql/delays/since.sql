SELECT kind, subject, source_wait, start_wait, process, publish FROM delay
WHERE minute >= ? ORDER BY kind, subject, minute
