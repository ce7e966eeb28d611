"""The benchmark of tasks: sending, and doing tasks that do nothing."""
