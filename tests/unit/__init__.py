"""One function, one class or one table at a time."""
