"""The parts of the store, each alone or in a real directory."""
