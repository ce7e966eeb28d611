"""The commands and the parts of the demo, without a process."""
