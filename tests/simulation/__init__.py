"""Crashes at every named step, broken disks and killed processes, replayable by seed."""
