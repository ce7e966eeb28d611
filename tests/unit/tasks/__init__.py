"""The pure part of tasks."""
