"""The benchmarks as programs: what they compute and print, never how fast anything is."""
