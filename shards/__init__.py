"""Stage 2: prepared sets become verified WebDataset tar shards; their order, reading, checking."""
