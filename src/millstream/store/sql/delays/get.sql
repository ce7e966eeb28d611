SELECT source_wait, start_wait, process, publish FROM delay WHERE kind = ? AND subject = ? AND minute = ?
