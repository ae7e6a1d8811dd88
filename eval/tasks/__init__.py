"""The tasks of evaluation, one module a task: which cells it plans, and what it does for a cell."""
