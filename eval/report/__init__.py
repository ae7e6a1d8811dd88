"""What is looked at after a stage: the report of a prepared set or run, and its numbers again."""
