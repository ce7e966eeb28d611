"""The words that every folder uses."""
