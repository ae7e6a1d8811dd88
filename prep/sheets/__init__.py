"""The report of a prepared set: what was left out, what it looks like, what it holds."""
